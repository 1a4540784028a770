(* Burnside: the mean number of colourings that a turn or a flip of the ring leaves as they are. *)
let beads = 10
let colours = 5
let rec power x n = if n = 0 then 1 else x * power x (n - 1)
let rec common a b = if b = 0 then a else common b (a mod b)

let ring n =
  if n = 1 then 0
  else power (colours - 1) n + if n mod 2 = 0 then colours - 1 else 1 - colours

let () =
  let total = ref 0 in
  for turn = 0 to beads - 1 do
    total := !total + ring (common turn beads)
  done;
  (* A flip through two beads leaves a path of 6 free; one between beads makes neighbours alike. *)
  total := !total + (beads / 2 * colours * power (colours - 1) (beads / 2));
  print_int (!total / (2 * beads))

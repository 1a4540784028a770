(* Follow each of the last five backwards to where it stood at the start. *)
let people = 4001

let rec back round place =
  if round = 0 then place + 1 else back (round - 1) ((place + round) mod (people - round + 1))

let () =
  let sum = ref 0 in
  for late = people - 4 to people do
    sum := !sum + back (late - 1) ((late - 1) mod (people - late + 1))
  done;
  print_int !sum

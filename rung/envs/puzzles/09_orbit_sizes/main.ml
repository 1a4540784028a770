(* Brent: the length of the circle first, then two walkers that far apart meet where it is entered. *)
let next x = ((x * x) + 1) mod 30011

let size start =
  let rec circle slow fast length limit =
    if slow = fast then length
    else if length = limit then circle fast (next fast) 1 (2 * limit)
    else circle slow (next fast) (length + 1) limit
  in
  let length = circle start (next start) 1 1 in
  let ahead = ref start in
  for _ = 1 to length do
    ahead := next !ahead
  done;
  let rec tail x y = if x = y then 0 else 1 + tail (next x) (next y) in
  tail start !ahead + length

let () =
  let total = ref 0 in
  for start = 0 to 30010 do
    total := !total + size start
  done;
  print_int !total

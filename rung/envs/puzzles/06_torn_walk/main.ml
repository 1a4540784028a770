module Squares = Set.Make (struct
  type t = int * int
  let compare = compare
end)

let rec walk steps s (x, y) seen =
  if steps = 0 then Squares.cardinal seen
  else
    let s = ((1109 * s) + 12345) mod 65536 in
    let place =
      match s / 16384 with
      | 0 -> (x, y + 1)
      | 1 -> (x + 1, y)
      | 2 -> (x, y - 1)
      | _ -> (x - 1, y)
    in
    walk (steps - 1) s place (Squares.add place seen)

let () = print_int (walk 50000 1 (0, 0) (Squares.singleton (0, 0)))

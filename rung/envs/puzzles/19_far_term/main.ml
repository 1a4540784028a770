let modulus = 1000003

let times a b =
  let cell i j = Array.fold_left ( + ) 0 (Array.init 5 (fun k -> a.(i).(k) * b.(k).(j))) mod modulus in
  Array.init 5 (fun i -> Array.init 5 (cell i))

let rec power step n =
  if n = 1 then step
  else
    let half = power step (n / 2) in
    let whole = times half half in
    if n mod 2 = 1 then times whole step else whole

(* On (t(n), t(n-1), t(n-2), n + 1, 1). *)
let step =
  [|
    [| 3; 0; 2; 1; 0 |]; [| 1; 0; 0; 0; 0 |]; [| 0; 1; 0; 0; 0 |]; [| 0; 0; 0; 1; 1 |]; [| 0; 0; 0; 0; 1 |];
  |]

let () =
  let row = (power step (1_000_000_000_000 - 2)).(0) in
  let start = [| 5; 2; 1; 3; 1 |] in
  print_int (Array.fold_left ( + ) 0 (Array.map2 ( * ) row start) mod modulus)

let rec ways coins amount left =
  match coins with
  | [] -> if amount = 0 then 1 else 0
  | [ coin ] -> if amount mod coin = 0 && amount / coin <= left then 1 else 0
  | coin :: rest ->
    let total = ref 0 in
    for count = 0 to min left (amount / coin) do
      total := !total + ways rest (amount - (count * coin)) (left - count)
    done;
    !total

let () = print_int (ways [ 53; 31; 19; 11; 7; 3 ] 700 40)

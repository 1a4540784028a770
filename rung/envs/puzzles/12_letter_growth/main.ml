(* (first letter, last letter, how often ba stands) of what a letter has grown into *)
let join (first, middle, m) (second, last, n) =
  (first, last, m + n + if middle = 'b' && second = 'a' then 1 else 0)

let rec grow rounds a b c =
  if rounds = 0 then
    let _, _, count = a in
    count
  else grow (rounds - 1) (join a b) (join c a) b

let () = print_int (grow 40 ('a', 'a', 0) ('b', 'b', 0) ('c', 'c', 0))

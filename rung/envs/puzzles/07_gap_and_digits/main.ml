let prime n =
  let rec free d = d * d > n || (n mod d <> 0 && free (d + 1)) in
  n > 1 && free 2

let rec next n = if prime (n + 1) then n + 1 else next (n + 1)
let rec digits n = if n = 0 then 0 else (n mod 10) + digits (n / 10)

let rec sum p total =
  if p >= 200000 then total
  else
    let q = next p in
    sum q (if q - p = digits p then total + p else total)

let () = print_int (sum 2 0)

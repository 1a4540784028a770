let rec sum base n = if n = 0 then 0 else (n mod base) + sum base (n / base)

let rec count n = if n = 0 then 0 else count (n - 1) + if sum 2 n = sum 10 n then n else 0

let () = print_int (count 200000)

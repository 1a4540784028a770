let rec reversed n back = if n = 0 then back else reversed (n / 10) ((10 * back) + (n mod 10))

let square n =
  let root = int_of_float (sqrt (float_of_int n) +. 0.5) in
  n > 0 && root * root = n

let () =
  let total = ref 0 in
  for n = 1 to 60000 do
    if square (abs (n - reversed n 0)) then total := !total + n
  done;
  print_int !total

let rec tidy n used sum =
  if n = 0 then sum mod 7 = 0
  else
    let bit = 1 lsl (n mod 10) in
    used land bit = 0 && tidy (n / 10) (used lor bit) (sum + (n mod 10))

let () =
  let total = ref 0 in
  for n = 1 to 99999 do
    if tidy n 0 0 then total := !total + n
  done;
  print_int !total

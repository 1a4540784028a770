(* k*k leaves 9 when divided by k + 3, so round k switches the lamps n for which k + 3 divides n + 9. *)
let () =
  let total = ref 0 in
  for n = 1 to 5000 do
    let switched = ref 0 in
    for step = 4 to 403 do
      if (n + 9) mod step = 0 then incr switched
    done;
    if !switched land 1 = 1 then total := !total + n
  done;
  print_int !total

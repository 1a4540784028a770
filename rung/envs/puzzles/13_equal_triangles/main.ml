let () =
  let total = ref 0 in
  for p = 0 to 99 do
    for q = p + 1 to 99 do
      for r = q + 1 to 99 do
        let x i = i / 10 and y i = i mod 10 in
        let double = ((x q - x p) * (y r - y p)) - ((y q - y p) * (x r - x p)) in
        if abs double = 12 then incr total
      done
    done
  done;
  print_int !total

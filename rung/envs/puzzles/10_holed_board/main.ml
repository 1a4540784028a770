let () =
  let ways = Array.make_matrix 17 17 0 in
  ways.(0).(0) <- 1;
  for r = 1 to 16 do
    for c = 1 to 16 do
      if r * c mod 7 <> 3 && (r + c) mod 11 <> 5 then
        ways.(r).(c) <- ways.(r - 1).(c) + ways.(r).(c - 1) + ways.(r - 1).(c - 1)
    done
  done;
  print_int ways.(16).(16)

(* 1 + x^k + x^2k = (1 - x^3k) / (1 - x^k): as many as sums, with any repetition, of numbers prime to 15. *)
let () =
  let ways = Array.make 301 0 in
  ways.(0) <- 1;
  for part = 1 to 300 do
    if part mod 3 <> 0 && part mod 5 <> 0 then
      for n = part to 300 do
        ways.(n) <- ways.(n) + ways.(n - part)
      done
  done;
  print_int ways.(300)

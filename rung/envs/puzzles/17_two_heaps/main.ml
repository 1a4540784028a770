let takes = 2 :: List.init 14 (fun n -> (n + 1) * (n + 1))

(* No theory of heaps: a pair is won if some move leads to a lost one. *)
let () =
  let won = Array.make_matrix 201 201 false in
  let total = ref 0 in
  for a = 0 to 200 do
    for b = 0 to 200 do
      let wins take =
        (take <= a && not won.(a - take).(b)) || (take <= b && not won.(a).(b - take))
      in
      won.(a).(b) <- List.exists wins takes;
      if (not won.(a).(b)) && 1 <= a && a <= b then total := !total + (a * b)
    done
  done;
  print_int !total

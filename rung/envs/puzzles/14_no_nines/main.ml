let known = Hashtbl.create 2000

(* Ways to finish with [left] digits; [last] is 10 before the first digit that is not zero. *)
let rec finish left last sum =
  if left = 0 then if last <> 10 && sum = 0 then 1 else 0
  else
    match Hashtbl.find_opt known (left, last, sum) with
    | Some ways -> ways
    | None ->
      let ways = ref 0 in
      for digit = 0 to 9 do
        if last = 10 || last + digit <> 9 then
          let last = if last = 10 && digit = 0 then 10 else digit in
          ways := !ways + finish (left - 1) last ((sum + digit) mod 13)
      done;
      Hashtbl.add known (left, last, sum) !ways;
      !ways

let () = print_int (finish 12 10 0)

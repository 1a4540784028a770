(* Column by column: [taken] are the units of a column that tiles from the one before stick out into. *)
let rec fill row taken out count next =
  if row = 4 then next.(out) <- next.(out) + count
  else if taken land (1 lsl row) <> 0 then fill (row + 1) taken out count next
  else begin
    fill (row + 1) taken (out lor (1 lsl row)) count next;
    if row < 3 && taken land (2 lsl row) = 0 then begin
      fill (row + 2) taken out count next;
      fill (row + 2) taken (out lor (3 lsl row)) count next
    end
  end

let step ways =
  let next = Array.make 16 0 in
  Array.iteri (fun taken count -> fill 0 taken 0 count next) ways;
  next

let () =
  let ways = ref (Array.init 16 (fun taken -> if taken = 0 then 1 else 0)) in
  for _ = 1 to 18 do
    ways := step !ways
  done;
  print_int !ways.(0)

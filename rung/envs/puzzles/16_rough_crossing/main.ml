module Queue = Set.Make (struct
  type t = int * int * int
  let compare = compare
end)

let size = 120
let cost r c = 1 + (((r * r * 37) + (c * c * 91) + (r * c * 53)) mod 97)
let inside r c = r >= 0 && r < size && c >= 0 && c < size
let least = Array.make_matrix size size max_int

let rec travel queue =
  let ((paid, r, c) as first) = Queue.min_elt queue in
  if r = size - 1 && c = size - 1 then paid
  else
    let visit queue (y, x) =
      if inside y x && paid + cost y x < least.(y).(x) then begin
        least.(y).(x) <- paid + cost y x;
        Queue.add (least.(y).(x), y, x) queue
      end
      else queue
    in
    let neighbours = [ (r + 1, c); (r - 1, c); (r, c + 1); (r, c - 1) ] in
    travel (List.fold_left visit (Queue.remove first queue) neighbours)

let () = print_int (travel (Queue.singleton (cost 0 0, 0, 0)))

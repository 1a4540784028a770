let rec walk year month day total =
  if year > 1200 then total
  else if month > 17 then walk (year + 1) 1 day total
  else
    let days = if month = 5 && year mod 4 = 0 && year mod 60 <> 0 then 21 else 20 in
    let ninth = if day mod 9 = 8 then year * month else 0 in
    walk year (month + 1) (day + days) (total + ninth)

let () = print_int (walk 1 1 0 0)

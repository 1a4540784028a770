interface Month { year: number; month: number; days: number }

function* months(): Generator<Month> {
  for (let year = 1; year <= 1200; year++) {
    const leap = year % 4 === 0 && year % 60 !== 0;
    for (let month = 1; month <= 17; month++) yield { year, month, days: leap && month === 5 ? 21 : 20 };
  }
}

let weekday = 0;
let total = 0;
for (const { year, month, days } of months()) {
  if (weekday === 8) total += year * month;
  weekday = (weekday + days) % 9;
}
console.log(total);

const squares: Set<number> = new Set();
for (let root = 1; root * root < 100000; root++) squares.add(root * root);

function reversed(n: number): number {
  let back = 0;
  for (let rest = n; rest > 0; rest = Math.floor(rest / 10)) back = 10 * back + (rest % 10);
  return back;
}

let total = 0;
for (let n = 1; n <= 60000; n++) if (squares.has(Math.abs(n - reversed(n)))) total += n;
console.log(total);

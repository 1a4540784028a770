const on: boolean[] = Array(5001).fill(false);
for (let k = 1; k <= 400; k++) {
  const step = k + 3;
  for (let n = step - ((k * k) % step); n <= 5000; n += step) on[n] = !on[n];
}
console.log(on.reduce((sum: number, lit: boolean, n: number) => (lit ? sum + n : sum), 0));

const limit = 200200;
const composite = new Uint8Array(limit);
const primes: number[] = [];
for (let n = 2; n < limit; n++) {
  if (composite[n]) continue;
  primes.push(n);
  for (let multiple = n * n; multiple < limit; multiple += n) composite[multiple] = 1;
}
const digits = (n: number): number => [...String(n)].reduce((sum, digit) => sum + Number(digit), 0);
const chosen = primes.filter((p, i) => p < 200000 && primes[i + 1] - p === digits(p));
console.log(chosen.reduce((a, b) => a + b, 0));

const modulus = 30011;
const next = (x: number): number => (x * x + 1) % modulus;
const size: number[] = Array(modulus).fill(0);
for (let start = 0; start < modulus; start++) {
  const place = new Map<number, number>();
  let x = start;
  for (; size[x] === 0 && !place.has(x); x = next(x)) place.set(x, place.size);
  const path = [...place.keys()];
  const entry = place.get(x) ?? path.length; // where a new circle begins, if there is one
  for (let i = path.length - 1; i >= 0; i--)
    size[path[i]] = i >= entry ? path.length - entry : size[next(path[i])] + 1;
}
console.log(size.reduce((a, b) => a + b));

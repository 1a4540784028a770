// Sweep down and up in turn until nothing gets cheaper.
const size = 120;
const cost = (r: number, c: number): number => 1 + ((r * r * 37 + c * c * 91 + r * c * 53) % 97);
const least: number[][] = Array.from({ length: size }, () => Array<number>(size).fill(Infinity));
least[0][0] = cost(0, 0);
const places: [number, number][] = [];
for (let r = 0; r < size; r++) for (let c = 0; c < size; c++) places.push([r, c]);
for (let changed = true; changed; ) {
  changed = false;
  for (const [r, c] of places) {
    const from = Math.min(
      least[r - 1]?.[c] ?? Infinity,
      least[r + 1]?.[c] ?? Infinity,
      least[r][c - 1] ?? Infinity,
      least[r][c + 1] ?? Infinity,
    );
    if (from + cost(r, c) < least[r][c]) {
      least[r][c] = from + cost(r, c);
      changed = true;
    }
  }
  places.reverse();
}
console.log(least[size - 1][size - 1]);

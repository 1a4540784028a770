type Step = readonly [number, number];
const steps: Step[] = [[0, 1], [1, 0], [0, -1], [-1, 0]];
const width = 1 << 20; // wider than the walk is long, so a square is one number
const seen = new Set<number>([0]);
let square = 0;
let s = 1;
for (let i = 0; i < 50000; i++) {
  s = (1109 * s + 12345) % 65536;
  const [x, y] = steps[s >> 14];
  square += x + width * y;
  seen.add(square);
}
console.log(seen.size);

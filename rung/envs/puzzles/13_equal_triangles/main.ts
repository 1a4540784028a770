// A corner in the middle of the list of points, and for each product the points on its two sides.
type Point = { x: number; y: number };
const points: Point[] = [];
for (let x = 0; x < 10; x++) for (let y = 0; y < 10; y++) points.push({ x, y });
let total = 0;
points.forEach((q, j) => {
  for (const p of points.slice(0, j))
    for (const r of points.slice(j + 1))
      if (Math.abs((p.x - q.x) * (r.y - q.y) - (p.y - q.y) * (r.x - q.x)) === 12) total++;
});
console.log(total);

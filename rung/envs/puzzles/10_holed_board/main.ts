const known = new Map<string, number>();

function ways(r: number, c: number): number {
  if (r < 1 || c < 1 || (r * c) % 7 === 3 || (r + c) % 11 === 5) return 0;
  if (r === 1 && c === 1) return 1;
  const key = `${r},${c}`;
  if (!known.has(key)) known.set(key, ways(r - 1, c) + ways(r, c - 1) + ways(r - 1, c - 1));
  return known.get(key)!;
}

console.log(ways(16, 16));

const ways: number[] = [1, ...Array<number>(300).fill(0)];
for (let part = 1; part <= 300; part++) {
  if (part % 5 === 0) continue;
  for (let n = 300; n >= part; n--) ways[n] += ways[n - part] + (ways[n - 2 * part] ?? 0);
}
console.log(ways[300]);

const takes: number[] = [2];
for (let root = 1; root * root <= 200; root++) takes.push(root * root);
const won: boolean[][] = Array.from({ length: 201 }, () => Array<boolean>(201).fill(false));
let total = 0;
for (let a = 0; a <= 200; a++)
  for (let b = 0; b <= 200; b++) {
    won[a][b] = takes.some((take) => (take <= a && !won[a - take][b]) || (take <= b && !won[a][b - take]));
    if (!won[a][b] && a >= 1 && a <= b) total += a * b;
  }
console.log(total);

type Matrix = number[][];
const modulus = 1000003;

function times(a: Matrix, b: Matrix): Matrix {
  return a.map((row) => row.map((_, j) => row.reduce((sum, x, k) => (sum + x * b[k][j]) % modulus, 0)));
}

// On (t(n), t(n-1), t(n-2), n + 1, 1).
let step: Matrix = [[3, 0, 2, 1, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]];
let power: Matrix = step.map((row, i) => row.map((_, j) => (i === j ? 1 : 0)));
for (let n = 10 ** 12 - 2; n > 0; n = Math.floor(n / 2)) {
  if (n % 2 === 1) power = times(power, step);
  step = times(step, step);
}
const start = [5, 2, 1, 3, 1];
console.log(power[0].reduce((sum, x, i) => sum + x * start[i], 0) % modulus);

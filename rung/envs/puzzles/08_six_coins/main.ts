const ways: number[][] = Array.from({ length: 701 }, () => Array<number>(41).fill(0)); // [amount][coins]
ways[0][0] = 1;
for (const coin of [3, 7, 11, 19, 31, 53])
  for (let amount = coin; amount <= 700; amount++)
    for (let coins = 1; coins <= 40; coins++) ways[amount][coins] += ways[amount - coin][coins - 1];
console.log(ways[700].reduce((a, b) => a + b));

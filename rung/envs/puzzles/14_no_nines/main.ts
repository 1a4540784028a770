let states: number[][] = Array.from({ length: 10 }, () => Array<number>(13).fill(0)); // [last][sum modulo 13]
for (let digit = 1; digit < 10; digit++) states[digit][digit] = 1;
let total = 0;
for (let length = 1; length <= 12; length++) {
  const longer: number[][] = Array.from({ length: 10 }, () => Array<number>(13).fill(0));
  states.forEach((sums, last) => {
    total += sums[0];
    for (let digit = 0; digit < 10; digit++)
      if (last + digit !== 9) sums.forEach((count, sum) => { longer[digit][(sum + digit) % 13] += count; });
  });
  states = longer;
}
console.log(total);

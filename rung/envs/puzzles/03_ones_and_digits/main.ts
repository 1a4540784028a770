const digitSum = (n: number, base: number): number => (n === 0 ? 0 : (n % base) + digitSum(Math.floor(n / base), base));

let total = 0;
for (let n = 1; n <= 200000; n++) if (digitSum(n, 2) === digitSum(n, 10)) total += n;
console.log(total);

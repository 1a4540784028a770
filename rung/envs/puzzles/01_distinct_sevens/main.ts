function tidy(number: number, digits: Set<number> = new Set(), sum = 0): boolean {
  if (number === 0) return sum % 7 === 0;
  const digit = number % 10;
  return !digits.has(digit) && tidy((number - digit) / 10, digits.add(digit), sum + digit);
}

let total = 0;
for (let n = 1; n < 100000; n++) if (tidy(n)) total += n;
console.log(total);

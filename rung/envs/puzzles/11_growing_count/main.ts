const people: number[] = Array.from({ length: 4001 }, (_, i) => i + 1);
const left: number[] = [];
for (let place = 0, count = 1; people.length > 0; count++) {
  place = (place + count - 1) % people.length;
  left.push(...people.splice(place, 1));
}
console.log(left.slice(-5).reduce((a, b) => a + b));

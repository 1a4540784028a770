interface Word { first: string; last: string; count: number }

function join(x: Word, y: Word): Word {
  const seam = x.last === "b" && y.first === "a" ? 1 : 0;
  return { first: x.first, last: y.last, count: x.count + y.count + seam };
}

let [a, b, c]: Word[] = ["a", "b", "c"].map((letter) => ({ first: letter, last: letter, count: 0 }));
for (let round = 0; round < 40; round++) [a, b, c] = [join(a, b), join(c, a), b];
console.log(a.count);

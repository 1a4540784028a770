type Profiles = Map<number, number>; // bit i: the i-th unit from here is covered already

let profiles: Profiles = new Map([[0, 1]]);
for (let unit = 0; unit < 4 * 18; unit++) {
  const next: Profiles = new Map();
  const add = (covered: number, count: number): void => {
    next.set(covered >> 1, (next.get(covered >> 1) ?? 0) + count);
  };
  for (const [covered, count] of profiles) {
    const below = unit % 4 < 3 && !(covered & 2);
    const right = unit < 4 * 17;
    if (covered & 1) add(covered, count);
    else {
      if (below) add(covered | 2, count);
      if (right) add(covered | 16, count);
      if (below && right && !(covered & 48)) add(covered | 50, count);
    }
  }
  profiles = next;
}
console.log(profiles.get(0));

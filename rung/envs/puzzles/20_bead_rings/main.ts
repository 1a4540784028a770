const beads = 10, colours = 5;

// Burnside; what a motion leaves alike is found by following it from bead to bead.
function fixed(motion: (bead: number) => number): number {
  const ring: number[] = Array(beads).fill(-1);
  function paint(bead: number): number {
    if (bead === beads) return ring.every((colour, i) => colour !== ring[(i + 1) % beads]) ? 1 : 0;
    if (ring[bead] >= 0) return paint(bead + 1);
    const orbit: number[] = [bead];
    for (let other = motion(bead); other !== bead; other = motion(other)) orbit.push(other);
    let ways = 0;
    for (let colour = 0; colour < colours; colour++) {
      if (bead > 0 && ring[bead - 1] === colour) continue;
      for (const each of orbit) ring[each] = colour;
      ways += paint(bead + 1);
    }
    for (const each of orbit) ring[each] = -1;
    return ways;
  }
  return paint(0);
}

let total = 0;
for (let turn = 0; turn < beads; turn++) {
  total += fixed((bead) => (bead + turn) % beads);
  total += fixed((bead) => (turn - bead + beads) % beads);
}
console.log(total / (2 * beads));

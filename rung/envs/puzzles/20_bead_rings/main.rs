// Burnside: the mean number of colourings that a turn or a flip of the ring leaves as they are.
const BEADS: u32 = 10;
const COLOURS: u64 = 5;

fn ring(beads: u32) -> u64 {
    if beads == 1 {
        return 0; // its own neighbour
    }
    let all = (COLOURS - 1).pow(beads);
    if beads % 2 == 0 {
        all + COLOURS - 1
    } else {
        all + 1 - COLOURS
    }
}

fn common(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        common(b, a % b)
    }
}

fn main() {
    let turns: u64 = (0..BEADS).map(|turn| ring(common(turn, BEADS))).sum();
    // A flip through two beads leaves a path of 6 free; one between beads makes neighbours alike.
    let flips = u64::from(BEADS / 2) * COLOURS * (COLOURS - 1).pow(BEADS / 2);
    println!("{}", (turns + flips) / u64::from(2 * BEADS));
}

use std::collections::HashMap;

type Known = HashMap<(usize, u32), u64>;

// Ways to cover from `unit` on; bit i of `covered` says that the i-th unit from here is covered already.
fn ways(unit: usize, covered: u32, known: &mut Known) -> u64 {
    if unit == 72 {
        return u64::from(covered == 0);
    }
    if covered & 1 == 1 {
        return ways(unit + 1, covered >> 1, known);
    }
    if let Some(&count) = known.get(&(unit, covered)) {
        return count;
    }
    let (down, right) = (unit % 4 < 3 && covered & 2 == 0, unit / 4 < 17);
    let mut count = 0;
    if down {
        count += ways(unit + 1, (covered | 2) >> 1, known);
    }
    if right {
        count += ways(unit + 1, (covered | 16) >> 1, known);
    }
    if down && right && covered & 48 == 0 {
        count += ways(unit + 1, (covered | 50) >> 1, known);
    }
    known.insert((unit, covered), count);
    count
}

fn main() {
    println!("{}", ways(0, 0, &mut HashMap::new()));
}

use std::collections::HashSet;

fn main() {
    let squares: HashSet<u32> = (1..317u32).map(|root| root * root).collect();
    let mut total = 0u64;
    for n in 1..=60_000u32 {
        let back: u32 = n.to_string().chars().rev().collect::<String>().parse().unwrap();
        if squares.contains(&n.abs_diff(back)) {
            total += u64::from(n);
        }
    }
    println!("{total}");
}

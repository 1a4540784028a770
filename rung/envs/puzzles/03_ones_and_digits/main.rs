fn digits(n: u32) -> u32 {
    if n == 0 {
        0
    } else {
        n % 10 + digits(n / 10)
    }
}

fn main() {
    let total: u64 = (1..=200_000u32)
        .filter(|&n| n.count_ones() == digits(n))
        .map(u64::from)
        .sum();
    println!("{total}");
}

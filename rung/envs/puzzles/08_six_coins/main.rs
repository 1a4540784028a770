fn ways(coins: &[i32], amount: i32, left: i32) -> u64 {
    let (&coin, rest) = coins.split_first().unwrap();
    if rest.is_empty() {
        return u64::from(amount % coin == 0 && amount / coin <= left);
    }
    (0..=left.min(amount / coin))
        .map(|count| ways(rest, amount - count * coin, left - count))
        .sum()
}

fn main() {
    println!("{}", ways(&[53, 31, 19, 11, 7, 3], 700, 40));
}

fn main() {
    let tidy = |n: &u32| {
        let digits = n.to_string().into_bytes();
        let distinct = (0..digits.len()).all(|i| !digits[..i].contains(&digits[i]));
        distinct && digits.iter().map(|d| u32::from(d - b'0')).sum::<u32>() % 7 == 0
    };
    println!("{}", (1..100_000).filter(tidy).map(u64::from).sum::<u64>());
}

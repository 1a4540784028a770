// The product of (1 + x^k + x^2k) over k that 5 does not divide, up to x^300.
fn main() {
    let mut ways = vec![0u64; 301];
    ways[0] = 1;
    for part in (1..=300).filter(|part| part % 5 != 0) {
        let before = ways.clone();
        for times in 1..=2 {
            for n in times * part..=300 {
                ways[n] += before[n - times * part];
            }
        }
    }
    println!("{}", ways[300]);
}

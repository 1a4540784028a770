fn digits(n: usize) -> usize {
    if n == 0 {
        0
    } else {
        n % 10 + digits(n / 10)
    }
}

fn main() {
    const LIMIT: usize = 200_200;
    let mut sieve = vec![true; LIMIT];
    for n in 2..450 {
        if sieve[n] {
            for multiple in (n * n..LIMIT).step_by(n) {
                sieve[multiple] = false;
            }
        }
    }
    let primes: Vec<usize> = (2..LIMIT).filter(|&n| sieve[n]).collect();
    let gaps = primes.windows(2).filter(|pair| pair[0] < 200_000);
    let total: usize = gaps
        .filter(|pair| pair[1] - pair[0] == digits(pair[0]))
        .map(|pair| pair[0])
        .sum();
    println!("{total}");
}

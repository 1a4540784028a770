const MODULUS: usize = 30011;

// Each start stamps what it meets with its own number.
fn main() {
    let mut met = vec![MODULUS; MODULUS];
    let mut total = 0;
    for start in 0..MODULUS {
        let mut x = start;
        while met[x] != start {
            met[x] = start;
            total += 1;
            x = (x * x + 1) % MODULUS;
        }
    }
    println!("{total}");
}

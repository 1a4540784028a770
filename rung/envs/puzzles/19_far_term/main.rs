const MODULUS: u64 = 1_000_003;
type Matrix = [[u64; 5]; 5];

fn times(a: &Matrix, b: &Matrix) -> Matrix {
    let mut product = [[0; 5]; 5];
    for i in 0..5 {
        for j in 0..5 {
            product[i][j] = (0..5).map(|k| a[i][k] * b[k][j]).sum::<u64>() % MODULUS;
        }
    }
    product
}

fn power(step: &Matrix, n: u64) -> Matrix {
    if n == 1 {
        return *step;
    }
    let half = power(step, n / 2);
    let whole = times(&half, &half);
    if n % 2 == 1 {
        times(&whole, step)
    } else {
        whole
    }
}

fn main() {
    // On (t(n), t(n-1), t(n-2), n + 1, 1).
    let step = [
        [3, 0, 2, 1, 0],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1],
    ];
    let row = power(&step, 1_000_000_000_000 - 2)[0];
    println!(
        "{}",
        row.iter().zip([5, 2, 1, 3, 1]).map(|(a, b)| a * b).sum::<u64>() % MODULUS
    );
}

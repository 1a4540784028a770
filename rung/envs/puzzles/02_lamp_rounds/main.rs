fn main() {
    let mut on = [false; 5001];
    for k in 1..=400 {
        for n in 1..=5000 {
            if (n + k * k) % (k + 3) == 0 {
                on[n] = !on[n];
            }
        }
    }
    println!("{}", (1..=5000).filter(|&n| on[n]).sum::<usize>());
}

fn main() {
    let takes: Vec<usize> = (1..15).map(|n| n * n).chain([2]).collect();
    let mut value: Vec<usize> = Vec::new(); // Grundy's, of a heap of each size
    for size in 0..=200 {
        let reached: Vec<usize> = takes
            .iter()
            .filter(|&&t| t <= size)
            .map(|t| value[size - t])
            .collect();
        value.push((0..).find(|n| !reached.contains(n)).unwrap());
    }
    let pairs = (1..=200).flat_map(|b| (1..=b).map(move |a| (a, b)));
    println!(
        "{}",
        pairs
            .filter(|&(a, b)| value[a] == value[b])
            .map(|(a, b)| a * b)
            .sum::<usize>()
    );
}

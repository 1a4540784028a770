fn main() {
    let points: Vec<(i32, i32)> = (0..100).map(|i| (i / 10, i % 10)).collect();
    let mut total = 0;
    for (i, p) in points.iter().enumerate() {
        for (j, q) in points.iter().enumerate().skip(i + 1) {
            let (ax, ay) = (q.0 - p.0, q.1 - p.1);
            total += points[j + 1..]
                .iter()
                .filter(|r| (ax * (r.1 - p.1) - ay * (r.0 - p.0)).abs() == 12)
                .count();
        }
    }
    println!("{total}");
}

fn main() {
    let mut ways = [[0u64; 17]; 17];
    ways[0][0] = 1; // the way onto the first square
    for r in 1..=16 {
        for c in 1..=16 {
            if r * c % 7 != 3 && (r + c) % 11 != 5 {
                ways[r][c] = ways[r - 1][c] + ways[r][c - 1] + ways[r - 1][c - 1];
            }
        }
    }
    println!("{}", ways[16][16]);
}

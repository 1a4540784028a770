use std::collections::HashSet;

fn main() {
    let (mut x, mut y, mut s) = (0i32, 0i32, 1u16);
    let mut seen = HashSet::from([(0, 0)]);
    for _ in 0..50_000 {
        s = s.wrapping_mul(1109).wrapping_add(12345); // 16 bits are the modulus
        match s >> 14 {
            0 => y += 1,
            1 => x += 1,
            2 => y -= 1,
            _ => x -= 1,
        }
        seen.insert((x, y));
    }
    println!("{}", seen.len());
}

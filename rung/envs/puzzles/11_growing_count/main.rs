use std::collections::VecDeque;

fn main() {
    let mut circle: VecDeque<usize> = (1..=4001).collect();
    let mut left = Vec::new();
    for count in 1..=4001 {
        let turns = (count - 1) % circle.len();
        circle.rotate_left(turns);
        left.extend(circle.pop_front());
    }
    println!("{}", left.iter().rev().take(5).sum::<usize>());
}

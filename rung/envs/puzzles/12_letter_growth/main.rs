use std::collections::HashMap;

// Pairs of neighbours: each pair of one word leaves a pair at the seam, each a or b a pair inside.
fn main() {
    let rule = HashMap::from([('a', "ab"), ('b', "ca"), ('c', "b")]);
    let mut letters = HashMap::from([('a', 1u64)]);
    let mut pairs: HashMap<(char, char), u64> = HashMap::new();
    for _ in 0..40 {
        let (mut fresh, mut grown) = (HashMap::new(), HashMap::new());
        for ((x, y), count) in &pairs {
            let seam = (rule[x].chars().last().unwrap(), rule[y].chars().next().unwrap());
            *grown.entry(seam).or_insert(0) += count;
        }
        for (letter, count) in &letters {
            let children: Vec<char> = rule[letter].chars().collect();
            for child in &children {
                *fresh.entry(*child).or_insert(0) += count;
            }
            if let [x, y] = children[..] {
                *grown.entry((x, y)).or_insert(0) += count;
            }
        }
        (letters, pairs) = (fresh, grown);
    }
    println!("{}", pairs[&('b', 'a')]);
}

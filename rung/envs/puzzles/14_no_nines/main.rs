fn main() {
    let mut states = [[0u64; 13]; 10]; // [last digit][sum modulo 13]
    for digit in 1..10 {
        states[digit][digit] = 1;
    }
    let mut total = 0;
    for _length in 1..=12 {
        let mut longer = [[0; 13]; 10];
        for last in 0..10 {
            total += states[last][0];
            for digit in (0..10).filter(|digit| last + digit != 9) {
                for sum in 0..13 {
                    longer[digit][(sum + digit) % 13] += states[last][sum];
                }
            }
        }
        states = longer;
    }
    println!("{total}");
}

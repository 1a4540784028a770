fn main() {
    let months = (1..=1200u64).flat_map(|year| (1..=17u64).map(move |month| (year, month)));
    let (mut day, mut total) = (0, 0);
    for (year, month) in months {
        if day % 9 == 8 {
            total += year * month;
        }
        day += if month == 5 && year % 4 == 0 && year % 60 != 0 {
            21
        } else {
            20
        };
    }
    println!("{total}");
}

fun main() {
    var total = 0L
    var day = 0
    for (year in 1..1200)
        for (month in 1..17) {
            if (day % 9 == 8) total += year * month
            day += if (month == 5 && year % 4 == 0 && year % 60 != 0) 21 else 20
        }
    println(total)
}

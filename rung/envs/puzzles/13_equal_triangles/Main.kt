fun main() {
    var total = 0
    for (p in 0..99)
        for (q in p + 1..99)
            for (r in q + 1..99) {
                val twice = (q / 10 - p / 10) * (r % 10 - p % 10) - (q % 10 - p % 10) * (r / 10 - p / 10)
                if (twice == 12 || twice == -12) total++
            }
    println(total)
}

fun main() {
    var states = (1..9).associate { Pair(it, it) to 1L } // (last digit, sum modulo 13)
    var total = 0L
    for (length in 1..12) {
        val longer = HashMap<Pair<Int, Int>, Long>()
        for ((state, count) in states) {
            val (last, sum) = state
            if (sum == 0) total += count
            for (digit in 0..9)
                if (last + digit != 9) longer.merge(Pair(digit, (sum + digit) % 13), count, Long::plus)
        }
        states = longer
    }
    println(total)
}

fun main() {
    val ways = Array(41) { IntArray(701) } // [coins][amount]
    ways[0][0] = 1
    for (coin in intArrayOf(3, 7, 11, 19, 31, 53))
        for (coins in 1..40)
            for (amount in coin..700) ways[coins][amount] += ways[coins - 1][amount - coin]
    println(ways.sumBy { it[700] })
}

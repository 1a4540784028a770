fun main() {
    val squares = (1..316).map { it * it }.toSet()
    var total = 0L
    for (n in 1..60000)
        if (Math.abs(n - n.toString().reversed().toInt()) in squares) total += n
    println(total)
}

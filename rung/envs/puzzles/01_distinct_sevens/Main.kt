fun tidy(n: Int): Boolean {
    val digits = n.toString().map { it - '0' }
    return digits.distinct().size == digits.size && digits.sum() % 7 == 0
}

fun main() = println((1 until 100000).filter(::tidy).map { it.toLong() }.sum())

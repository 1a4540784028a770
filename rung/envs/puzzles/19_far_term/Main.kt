const val MODULUS = 1000003L

typealias Square = Array<LongArray>

operator fun Square.times(other: Square): Square =
    Array(5) { i -> LongArray(5) { j -> (0..4).map { k -> this[i][k] * other[k][j] }.sum() % MODULUS } }

fun power(step: Square, n: Long): Square {
    if (n == 1L) return step
    val half = power(step, n / 2)
    return if (n % 2 == 1L) half * half * step else half * half
}

fun main() {
    // On (t(n), t(n-1), t(n-2), n + 1, 1).
    val step = arrayOf(
        longArrayOf(3, 0, 2, 1, 0),
        longArrayOf(1, 0, 0, 0, 0),
        longArrayOf(0, 1, 0, 0, 0),
        longArrayOf(0, 0, 0, 1, 1),
        longArrayOf(0, 0, 0, 0, 1)
    )
    val row = power(step, 1000000000000L - 2)[0]
    val start = longArrayOf(5, 2, 1, 3, 1)
    println((0..4).map { row[it] * start[it] }.sum() % MODULUS)
}

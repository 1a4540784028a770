typealias Matrix = List<LongArray>

/** From the units that stick into a column to those that stick out of it. */
fun column(taken: Int): LongArray {
    val to = LongArray(16)
    fun place(row: Int, out: Int) {
        if (row == 4) {
            to[out]++
        } else if (taken shr row and 1 == 1) {
            place(row + 1, out)
        } else {
            place(row + 1, out or (1 shl row))
            if (row < 3 && taken shr (row + 1) and 1 == 0) {
                place(row + 2, out)
                place(row + 2, out or (3 shl row))
            }
        }
    }
    place(0, 0)
    return to
}

operator fun Matrix.times(other: Matrix): Matrix =
    map { row -> LongArray(16) { j -> (0..15).map { k -> row[k] * other[k][j] }.sum() } }

fun main() {
    val step = (0..15).map(::column)
    val two = step * step
    val four = two * two
    val sixteen = four * four * (four * four)
    println((sixteen * two)[0][0])
}

fun main() {
    var place = Pair(0, 0)
    val seen = hashSetOf(place)
    var s = 1
    repeat(50000) {
        s = (1109 * s + 12345) % 65536
        val (x, y) = place
        place = when (s / 16384) {
            0 -> Pair(x, y + 1)
            1 -> Pair(x + 1, y)
            2 -> Pair(x, y - 1)
            else -> Pair(x - 1, y)
        }
        seen.add(place)
    }
    println(seen.size)
}

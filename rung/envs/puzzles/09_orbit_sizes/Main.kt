const val MODULUS = 30011

fun main() {
    val met = IntArray(MODULUS) { -1 } // the last start that came by
    var total = 0
    for (start in 0 until MODULUS) {
        var x = start
        while (met[x] != start) {
            met[x] = start
            total++
            x = ((x.toLong() * x + 1) % MODULUS).toInt()
        }
    }
    println(total)
}

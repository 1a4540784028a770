const val BEADS = 10
const val COLOURS = 5

/** Does no turn or flip of the ring come before it in the order of words? */
fun smallest(ring: IntArray): Boolean {
    for (start in 0 until BEADS)
        for (way in intArrayOf(1, BEADS - 1))
            for (i in 0 until BEADS) {
                val other = ring[(start + way * i) % BEADS]
                if (other < ring[i]) return false
                if (other > ring[i]) break
            }
    return true
}

fun paint(ring: IntArray, bead: Int): Int {
    if (bead == BEADS) return if (ring[BEADS - 1] != ring[0] && smallest(ring)) 1 else 0
    var total = 0
    for (colour in 0 until COLOURS)
        if (bead == 0 || ring[bead - 1] != colour) {
            ring[bead] = colour
            total += paint(ring, bead + 1)
        }
    return total
}

fun main() = println(paint(IntArray(BEADS), 0))

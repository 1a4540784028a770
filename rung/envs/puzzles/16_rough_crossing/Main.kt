import java.util.PriorityQueue

const val SIZE = 120

fun cost(r: Int, c: Int) = 1 + (r * r * 37 + c * c * 91 + r * c * 53) % 97

fun main() {
    val done = HashSet<Pair<Int, Int>>()
    val queue = PriorityQueue<Triple<Int, Int, Int>>(compareBy { it.first })
    queue.add(Triple(cost(0, 0), 0, 0))
    while (true) {
        val (paid, r, c) = queue.remove()
        if (!done.add(Pair(r, c))) continue
        if (r == SIZE - 1 && c == SIZE - 1) {
            println(paid)
            return
        }
        for ((y, x) in listOf(Pair(r + 1, c), Pair(r - 1, c), Pair(r, c + 1), Pair(r, c - 1)))
            if (y in 0 until SIZE && x in 0 until SIZE) queue.add(Triple(paid + cost(y, x), y, x))
    }
}

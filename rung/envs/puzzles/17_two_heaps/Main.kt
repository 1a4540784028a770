fun main() {
    val takes = (1..14).map { it * it } + 2
    val value = mutableListOf<Int>() // Grundy's, of a heap of each size
    for (size in 0..200) {
        val reached = takes.filter { it <= size }.map { value[size - it] }.toSet()
        value += generateSequence(0) { it + 1 }.first { it !in reached }
    }
    var total = 0L
    for (b in 1..200)
        for (a in 1..b)
            if (value[a] == value[b]) total += a * b
    println(total)
}

fun main() {
    var ways = LongArray(301)
    ways[0] = 1
    for (part in 1..300) {
        if (part % 5 == 0) continue
        ways = LongArray(301) { n -> (0..2).filter { n >= it * part }.map { ways[n - it * part] }.sum() }
    }
    println(ways[300])
}

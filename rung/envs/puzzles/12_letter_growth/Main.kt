/** What a letter has grown into: the ends, and how often ba stands in it. */
data class Word(val first: Char, val last: Char, val count: Long) {
    operator fun plus(next: Word): Word {
        val seam = if (last == 'b' && next.first == 'a') 1 else 0
        return Word(first, next.last, count + next.count + seam)
    }
}

fun main() {
    var words = Triple(Word('a', 'a', 0), Word('b', 'b', 0), Word('c', 'c', 0))
    repeat(40) {
        val (a, b, c) = words
        words = Triple(a + b, c + a, b)
    }
    println(words.first.count)
}

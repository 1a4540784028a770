fun main() {
    val people = (1..4001).toMutableList()
    val left = mutableListOf<Int>()
    var place = 0
    for (count in 1..4001) {
        place = (place + count - 1) % people.size
        left += people.removeAt(place)
    }
    println(left.takeLast(5).sum())
}

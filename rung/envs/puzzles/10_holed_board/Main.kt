fun main() {
    var row = LongArray(17)
    row[0] = 1 // lets the first square begin
    for (r in 1..16) {
        val now = LongArray(17)
        for (c in 1..16)
            if (r * c % 7 != 3 && (r + c) % 11 != 5) now[c] = row[c] + row[c - 1] + now[c - 1]
        row = now
    }
    println(row[16])
}

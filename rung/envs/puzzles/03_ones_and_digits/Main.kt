tailrec fun sum(n: Int, base: Int, before: Int = 0): Int =
    if (n == 0) before else sum(n / base, base, before + n % base)

fun main() {
    var total = 0L
    for (n in 1..200000) if (sum(n, 10) == sum(n, 2)) total += n
    println(total)
}

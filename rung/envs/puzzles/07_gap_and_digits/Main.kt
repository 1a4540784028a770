fun main() {
    val limit = 200200
    val prime = BooleanArray(limit) { it > 1 }
    for (n in 2 until 450)
        if (prime[n]) for (multiple in n * n until limit step n) prime[multiple] = false
    val primes = (2 until limit).filter { prime[it] }
    val pairs = primes.zipWithNext().filter { (p, q) -> p < 200000 && q - p == p.toString().sumBy { it - '0' } }
    println(pairs.map { it.first.toLong() }.sum())
}

package main

import "fmt"

const modulus = 30011

func next(x int) int { return (x*x + 1) % modulus }

// The orbit's size by Floyd's tortoise and hare: the tail before the circle, and the circle.
func size(start int) int {
	slow, fast := next(start), next(next(start))
	for slow != fast {
		slow, fast = next(slow), next(next(fast))
	}
	tail := 0
	for slow = start; slow != fast; slow, fast = next(slow), next(fast) {
		tail++
	}
	circle := 1
	for x := next(slow); x != slow; x = next(x) {
		circle++
	}
	return tail + circle
}

func main() {
	total := 0
	for start := 0; start < modulus; start++ {
		total += size(start)
	}
	fmt.Println(total)
}

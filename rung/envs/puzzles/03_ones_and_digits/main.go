package main

import (
	"fmt"
	"math/bits"
)

func main() {
	total := 0
	for n := 1; n <= 200000; n++ {
		digits := 0
		for rest := n; rest > 0; rest /= 10 {
			digits += rest % 10
		}
		if digits == bits.OnesCount(uint(n)) {
			total += n
		}
	}
	fmt.Println(total)
}

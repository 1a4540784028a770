package main

import "fmt"

func main() {
	var on [5001]bool
	for k := 1; k <= 400; k++ {
		step := k + 3
		for n := step - k*k%step; n <= 5000; n += step {
			on[n] = !on[n]
		}
	}
	sum := 0
	for n, lit := range on {
		if lit {
			sum += n
		}
	}
	fmt.Println(sum)
}

package main

import "fmt"

func main() {
	const limit = 200200
	var composite [limit]bool
	total, before := 0, 2
	for n := 3; before < 200000; n++ {
		if composite[n] || n%2 == 0 {
			continue
		}
		for multiple := n * n; multiple < limit; multiple += n {
			composite[multiple] = true
		}
		digits := 0
		for rest := before; rest > 0; rest /= 10 {
			digits += rest % 10
		}
		if n-before == digits {
			total += before
		}
		before = n
	}
	fmt.Println(total)
}

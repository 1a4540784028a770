package main

import "fmt"

func main() {
	total := 0
next:
	for n := 1; n < 100000; n++ {
		used, sum := 0, 0
		for rest := n; rest > 0; rest /= 10 {
			bit := 1 << (rest % 10)
			if used&bit != 0 {
				continue next
			}
			used |= bit
			sum += rest % 10
		}
		if sum%7 == 0 {
			total += n
		}
	}
	fmt.Println(total)
}

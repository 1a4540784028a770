package main

import "fmt"

func main() {
	square := map[int]bool{}
	for root := 1; root*root < 100000; root++ {
		square[root*root] = true
		square[-root*root] = true
	}
	total := 0
	for n := 1; n <= 60000; n++ {
		back := 0
		for rest := n; rest > 0; rest /= 10 {
			back = 10*back + rest%10
		}
		if square[n-back] {
			total += n
		}
	}
	fmt.Println(total)
}

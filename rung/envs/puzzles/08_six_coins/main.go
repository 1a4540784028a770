package main

import "fmt"

func main() {
	var ways [41][701]int // [coins][amount]
	ways[0][0] = 1
	for _, coin := range []int{3, 7, 11, 19, 31, 53} {
		for coins := 1; coins <= 40; coins++ {
			for amount := coin; amount <= 700; amount++ {
				ways[coins][amount] += ways[coins-1][amount-coin]
			}
		}
	}
	total := 0
	for coins := range ways {
		total += ways[coins][700]
	}
	fmt.Println(total)
}

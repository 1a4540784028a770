package main

import "fmt"

func main() {
	takes := []int{2}
	for n := 1; n*n <= 200; n++ {
		takes = append(takes, n*n)
	}
	var value [201]int // Grundy's
	for size := range value {
		reached := map[int]bool{}
		for _, take := range takes {
			if take <= size {
				reached[value[size-take]] = true
			}
		}
		for reached[value[size]] {
			value[size]++
		}
	}
	total := 0
	for b := 1; b <= 200; b++ {
		for a := 1; a <= b; a++ {
			if value[a] == value[b] {
				total += a * b
			}
		}
	}
	fmt.Println(total)
}

package main

import "fmt"

type state struct{ last, sum int }

func main() {
	states := map[state]int{}
	for digit := 1; digit < 10; digit++ {
		states[state{digit, digit}] = 1
	}
	total := 0
	for length := 1; length <= 12; length++ {
		longer := map[state]int{}
		for s, count := range states {
			if s.sum == 0 {
				total += count
			}
			for digit := 0; digit < 10; digit++ {
				if s.last+digit != 9 {
					longer[state{digit, (s.sum + digit) % 13}] += count
				}
			}
		}
		states = longer
	}
	fmt.Println(total)
}

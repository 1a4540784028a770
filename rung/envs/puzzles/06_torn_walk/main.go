package main

import "fmt"

type square struct{ x, y int }

func main() {
	steps := [4]square{{0, 1}, {1, 0}, {0, -1}, {-1, 0}}
	at := square{}
	seen := map[square]bool{at: true}
	s := 1
	for i := 0; i < 50000; i++ {
		s = (1109*s + 12345) % 65536
		step := steps[s/16384]
		at = square{at.x + step.x, at.y + step.y}
		seen[at] = true
	}
	fmt.Println(len(seen))
}

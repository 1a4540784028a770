package main

import "fmt"

func main() {
	var ways [17][17]int
	for r := 1; r <= 16; r++ {
		for c := 1; c <= 16; c++ {
			switch {
			case r*c%7 == 3 || (r+c)%11 == 5:
			case r == 1 && c == 1:
				ways[r][c] = 1
			default:
				ways[r][c] = ways[r-1][c] + ways[r][c-1] + ways[r-1][c-1]
			}
		}
	}
	fmt.Println(ways[16][16])
}

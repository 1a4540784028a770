package main

import "fmt"

// Ways from a column, whose units in `taken` are covered already, to the next one.
func fill(row, taken, out, count int, next *[16]int) {
	switch {
	case row == 4:
		next[out] += count
	case taken>>row&1 == 1:
		fill(row+1, taken, out, count, next)
	default:
		fill(row+1, taken, out|1<<row, count, next)
		if row < 3 && taken>>(row+1)&1 == 0 {
			fill(row+2, taken, out, count, next)
			fill(row+2, taken, out|3<<row, count, next)
		}
	}
}

func main() {
	ways := [16]int{1}
	for column := 0; column < 18; column++ {
		var next [16]int
		for taken, count := range ways {
			fill(0, taken, 0, count, &next)
		}
		ways = next
	}
	fmt.Println(ways[0])
}

package main

import "fmt"

// What a letter has grown into: its first and last letter, and how often ba stands in it.
type word struct {
	first, last byte
	count       int
}

func join(x, y word) word {
	count := x.count + y.count
	if x.last == 'b' && y.first == 'a' {
		count++
	}
	return word{x.first, y.last, count}
}

func main() {
	a, b, c := word{'a', 'a', 0}, word{'b', 'b', 0}, word{'c', 'c', 0}
	for round := 0; round < 40; round++ {
		a, b, c = join(a, b), join(c, a), b
	}
	fmt.Println(a.count)
}

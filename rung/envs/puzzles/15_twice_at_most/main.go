package main

import "fmt"

func main() {
	ways := make([]int, 301)
	ways[0] = 1
	for part := 1; part <= 300; part++ {
		if part%5 == 0 {
			continue
		}
		for n := 300; n >= part; n-- { // downwards: what is read has not seen this part yet
			ways[n] += ways[n-part]
			if n >= 2*part {
				ways[n] += ways[n-2*part]
			}
		}
	}
	fmt.Println(ways[300])
}

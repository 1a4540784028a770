package main

import "fmt"

func main() {
	var people []int
	for n := 1; n <= 4001; n++ {
		people = append(people, n)
	}
	place, sum := 0, 0
	for count := 1; len(people) > 0; count++ {
		place = (place + count - 1) % len(people)
		if len(people) <= 5 {
			sum += people[place]
		}
		people = append(people[:place], people[place+1:]...)
	}
	fmt.Println(sum)
}

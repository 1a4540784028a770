package main

import "fmt"

func main() {
	total := 0
	for p := 0; p < 100; p++ {
		for q := p + 1; q < 100; q++ {
			for r := q + 1; r < 100; r++ {
				double := (q/10-p/10)*(r%10-p%10) - (q%10-p%10)*(r/10-p/10)
				if double == 12 || double == -12 {
					total++
				}
			}
		}
	}
	fmt.Println(total)
}

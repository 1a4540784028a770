package main

import "fmt"

const modulus = 1000003

type matrix [5][5]int

func times(a, b matrix) (product matrix) {
	for i := range a {
		for j := range a {
			for k := range a {
				product[i][j] = (product[i][j] + a[i][k]*b[k][j]) % modulus
			}
		}
	}
	return product
}

func main() {
	// On (t(n), t(n-1), t(n-2), n + 1, 1).
	step := matrix{{3, 0, 2, 1, 0}, {1, 0, 0, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 0, 1, 1}, {0, 0, 0, 0, 1}}
	var power matrix
	for i := range power {
		power[i][i] = 1
	}
	for n := 1000000000000 - 2; n > 0; n /= 2 {
		if n%2 == 1 {
			power = times(power, step)
		}
		step = times(step, step)
	}
	term := 0
	for i, start := range [5]int{5, 2, 1, 3, 1} {
		term += power[0][i] * start
	}
	fmt.Println(term % modulus)
}

package main

import "fmt"

const beads, colours = 10, 5

// Does no turn or flip of the ring come before it in the order of words?
func smallest(ring *[beads]int) bool {
	for start := 0; start < beads; start++ {
		for _, way := range [2]int{1, beads - 1} {
			for i := 0; i < beads; i++ {
				other := ring[(start+way*i)%beads]
				if other < ring[i] {
					return false
				}
				if other > ring[i] {
					break
				}
			}
		}
	}
	return true
}

func paint(ring *[beads]int, bead int) int {
	if bead == beads {
		if ring[beads-1] != ring[0] && smallest(ring) {
			return 1
		}
		return 0
	}
	total := 0
	for colour := 0; colour < colours; colour++ {
		if bead == 0 || ring[bead-1] != colour {
			ring[bead] = colour
			total += paint(ring, bead+1)
		}
	}
	return total
}

func main() {
	fmt.Println(paint(&[beads]int{}, 0))
}

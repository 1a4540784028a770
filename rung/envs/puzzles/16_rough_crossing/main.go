package main

import (
	"container/heap"
	"fmt"
)

const size = 120

type place struct{ paid, r, c int }
type queue []place

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].paid < q[j].paid }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(place)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func cost(r, c int) int { return 1 + (r*r*37+c*c*91+r*c*53)%97 }

func main() {
	var done [size][size]bool
	open := &queue{{cost(0, 0), 0, 0}}
	for {
		at := heap.Pop(open).(place)
		if done[at.r][at.c] {
			continue
		}
		done[at.r][at.c] = true
		if at.r == size-1 && at.c == size-1 {
			fmt.Println(at.paid)
			return
		}
		for _, step := range [4][2]int{{1, 0}, {-1, 0}, {0, 1}, {0, -1}} {
			r, c := at.r+step[0], at.c+step[1]
			if r >= 0 && r < size && c >= 0 && c < size && !done[r][c] {
				heap.Push(open, place{at.paid + cost(r, c), r, c})
			}
		}
	}
}

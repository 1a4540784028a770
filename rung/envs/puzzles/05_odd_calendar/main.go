package main

import "fmt"

func main() {
	weekday, total := 1, 0
	for year := 1; year <= 1200; year++ {
		for month := 1; month <= 17; month++ {
			if weekday == 9 {
				total += year * month
			}
			days := 20
			if month == 5 && year%4 == 0 && year%60 != 0 {
				days = 21
			}
			weekday = (weekday-1+days)%9 + 1
		}
	}
	fmt.Println(total)
}

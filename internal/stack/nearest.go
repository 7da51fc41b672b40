package stack

import "strings"

// nearest is the word that is at most two letters from another.
func nearest(word string, words []string) string {
	best, least := "", 3
	for _, w := range words {
		if n := distance(strings.ToLower(word), w); n < least && n < len(w) {
			best, least = w, n
		}
	}
	return best
}

func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 40
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left, diagonal := i+1, i
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			left = min(cost, left+1, row[j+1]+1)
			row[j+1] = left
		}
		row[0] = i + 1
	}
	return row[len(b)]
}

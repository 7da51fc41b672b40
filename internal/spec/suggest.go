package spec

import "strings"

// didYouMean names the known word that a mistyped one is nearest to, as the
// end of a message; "" where none is near.
func didYouMean(written string, known []string) string {
	best, distance := "", 3
	plain := plainWord(written)
	if len(plain) > 40 {
		return ""
	}
	for _, k := range known {
		n := editDistance(plain, plainWord(k))
		// Two slips in a word of three letters make it any other word.
		if n < distance && n <= max(1, len(k)/3) {
			best, distance = k, n
		}
	}
	if best == "" && len(plain) >= 4 { // password, of password_hash
		for _, k := range known {
			if strings.HasPrefix(plainWord(k), plain) {
				best = k
				break
			}
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + best + "?"
}

// plainWord drops what people mix up: capitals, dashes, underscores
// and spaces.
func plainWord(s string) string {
	return strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(s))
}

// editDistance counts the letters to be added, removed, changed or swapped
// with their neighbour.
func editDistance(a, b string) int {
	x, y := []rune(a), []rune(b)
	d := make([][]int, len(x)+1)
	for i := range d {
		d[i] = make([]int, len(y)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(x)][len(y)]
}

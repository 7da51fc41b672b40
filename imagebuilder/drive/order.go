package drive

import (
	"strconv"
	"strings"
)

// byName compares names as people do: sdb before sdaa, nvme2n1 before nvme10n1.
func byName(a, b string) int {
	cut := func(s string) (letters string, digits int) {
		letters = strings.TrimRightFunc(s, func(r rune) bool { return r >= '0' && r <= '9' })
		digits, err := strconv.Atoi(s[len(letters):])
		if err != nil {
			return s, 0
		}
		return letters, digits
	}
	la, na := cut(a)
	lb, nb := cut(b)
	switch {
	case len(la) != len(lb) && strings.HasPrefix(la, "sd") && strings.HasPrefix(lb, "sd"):
		return len(la) - len(lb)
	case la != lb:
		return strings.Compare(la, lb)
	case na != nb:
		return na - nb
	}
	return strings.Compare(a, b)
}

package deb822

import (
	"cmp"
	"strings"
)

// CompareVersions says which of two package versions is newer, as dpkg does:
// below 0 where a is older than b, above 0 where it is newer (Debian Policy
// 5.6.12). It takes anything: what is no valid version is ordered by the same
// rules.
func CompareVersions(a, b string) int {
	epochA, upstreamA, revisionA := splitVersion(a)
	epochB, upstreamB, revisionB := splitVersion(b)
	if c := compareNumbers(epochA, epochB); c != 0 {
		return c
	}
	if c := comparePart(upstreamA, upstreamB); c != 0 {
		return c
	}
	return comparePart(revisionA, revisionB)
}

// Admits says whether a version is one of those that a relation such as
// "(>= 1.2)" asks for (Debian Policy 7.1). The operator is one of <<, <=, =, >=
// and >>, or "" where any version will do.
func Admits(operator, limit, version string) bool {
	if operator == "" {
		return true
	}
	c := CompareVersions(version, limit)
	switch operator {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}

func splitVersion(v string) (epoch, upstream, revision string) {
	if before, after, ok := strings.Cut(v, ":"); ok {
		epoch, v = before, after
	}
	if at := strings.LastIndexByte(v, '-'); at >= 0 {
		v, revision = v[:at], v[at+1:]
	}
	return epoch, v, revision
}

// comparePart compares an upstream version or a revision: in turns what is no
// digit, letter by letter, and then a number.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		var textA, textB string
		textA, a = span(a, false)
		textB, b = span(b, false)
		for i := range max(len(textA), len(textB)) {
			if c := cmp.Compare(rank(textA, i), rank(textB, i)); c != 0 {
				return c
			}
		}
		var numberA, numberB string
		numberA, a = span(a, true)
		numberB, b = span(b, true)
		if c := compareNumbers(numberA, numberB); c != 0 {
			return c
		}
	}
	return 0
}

// span cuts off what begins s: digits, or all that are none.
func span(s string, digits bool) (start, rest string) {
	i := 0
	for i < len(s) && isDigit(s[i]) == digits {
		i++
	}
	return s[:i], s[i:]
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// rank is a character's place: the tilde before even the end, letters before
// everything else.
func rank(s string, i int) int {
	if i >= len(s) {
		return 0
	}
	switch c := s[i]; {
	case c == '~':
		return -1
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		return int(c)
	default:
		return int(c) + 256
	}
}

// compareNumbers compares digits of any length as numbers; none are 0.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

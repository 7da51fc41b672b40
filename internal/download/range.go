package download

import (
	"strconv"
	"strings"
)

// A contentRange is a part of a file: its first and last byte, and the size of
// the whole, -1 where that is unknown.
type contentRange struct{ first, last, size int64 }

// parseRange reads a Content-Range of bytes: `bytes 100-199/200`, or `*` for
// the size (RFC 9110, 14.4).
func parseRange(header string) (contentRange, bool) {
	part, ok := strings.CutPrefix(header, "bytes ")
	part, whole, ok2 := strings.Cut(part, "/")
	first, last, ok3 := strings.Cut(part, "-")
	if !ok || !ok2 || !ok3 {
		return contentRange{}, false
	}
	r := contentRange{size: -1}
	for _, field := range []struct {
		text string
		into *int64
	}{{first, &r.first}, {last, &r.last}, {whole, &r.size}} {
		if field.into == &r.size && whole == "*" {
			continue
		}
		n, err := strconv.ParseUint(field.text, 10, 63)
		if err != nil {
			return contentRange{}, false
		}
		*field.into = int64(n)
	}
	return r, r.first <= r.last && (r.size < 0 || r.last < r.size)
}

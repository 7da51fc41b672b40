package download

var RetryAfter = retryAfter

// ParseRange gives the first and last byte, and the size of the whole.
func ParseRange(header string) (first, last, size int64, ok bool) {
	r, ok := parseRange(header)
	return r.first, r.last, r.size, ok
}

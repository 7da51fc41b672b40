package operation

import (
	"fmt"
	"slices"
	"strings"
)

// from has a request that continues another have the flags of that one, but for those
// that are said anew, and says which ones these are, for people: "rebuild-12 --keep".
func (r *Request) from(last *Operation) string {
	was := &last.Request
	words := []string{last.ID}
	take := func(name string, on *bool, before bool) {
		if before && !*on && !slices.Contains(r.Anew, name) {
			*on = true
			words = append(words, "--"+name)
		}
	}
	take("wait", &r.Wait, was.Wait)
	take("keep", &r.Keep, was.Keep)
	take("now", &r.Now, was.Now)
	if r.DrainTimeout == 0 && was.DrainTimeout > 0 {
		r.DrainTimeout = was.DrainTimeout
		words = append(words, "--drain-timeout "+was.DrainTimeout.String())
	}
	if r.MaxUnavailable == 0 && was.MaxUnavailable > 1 {
		r.MaxUnavailable = was.MaxUnavailable
		words = append(words, fmt.Sprintf("--max-unavailable %d", was.MaxUnavailable))
	}
	return strings.Join(words, " ")
}

package layer

import (
	"errors"

	"hatchery/internal/sparse"
)

// errEnough ends a walk along a chain.
var errEnough = errors.New("enough")

// mostZeros is how many ranges Zeros gives at most.
const mostZeros = 4096

// Zeros gives what of a range of a chain is known to read as zeros, because
// nothing is stored for it: sorted, merged, and no more than 4096 ranges. It
// reads no data; what it leaves out may be zeros all the same.
func Zeros(top Parent, off, n int64) []Extent {
	if off < 0 || n <= 0 {
		return nil
	}
	n = min(n, top.Size()-off)
	if l, ok := top.(*Layer); ok && !l.Sealed() {
		l.mapping.RLock()
		defer l.mapping.RUnlock()
		if l.closed {
			return nil
		}
	}
	var out []Extent
	add := func(off, end int64) {
		switch k := len(out) - 1; {
		case off >= end:
		case k >= 0 && out[k].Offset+out[k].Length == off:
			out[k].Length += end - off
		default:
			out = append(out, Extent{off, end - off, true})
		}
	}
	_ = pieces(top, off, n, func(p piece) error {
		switch {
		case len(out) >= mostZeros:
			return errEnough
		case p.base && p.src != nil:
			at := p.off
			for s, err := range sparse.Segments(p.src, p.srcOff, p.srcOff+p.n) {
				if err != nil || len(out) >= mostZeros {
					return errEnough // the rest may be data
				}
				add(at, p.off+s.Offset-p.srcOff)
				at = p.off + s.Offset + s.Length - p.srcOff
			}
			add(at, p.off+p.n)
		case p.src == nil && p.reader == nil:
			add(p.off, p.off+p.n)
		}
		return nil
	})
	return out
}

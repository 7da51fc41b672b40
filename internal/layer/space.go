package layer

import (
	"cmp"
	"errors"
	"slices"
)

// errFull says that the file has no block numbers left.
var errFull = errors.New("the layer's file has reached its largest size")

// space is what of the file is free to be written.
type space struct {
	free   []span // sorted, merged; all below end
	blocks int64  // in free
	end    int64  // from here on everything is free
	rover  int    // where in free to look next
	limit  int64  // from here on, only where no gap is left; 0: none
}

// largeEnough is how many free spans take looks at before it gives up.
const largeEnough = 64

// take gives a run of at most want blocks. It would rather make the file
// longer than scatter a long run over small gaps, unless the gaps are more
// than a quarter of the file.
func (s *space) take(want int64) (start, n int64, err error) {
	if len(s.free) > 0 {
		gaps := s.blocks > s.end/4 || s.limit > 0 && s.end+want > s.limit
		best := -1
		for i := range min(len(s.free), largeEnough) {
			at := (s.rover + i) % len(s.free)
			if int64(s.free[at].n) >= want {
				best = at
				break
			}
			if gaps && (best < 0 || s.free[at].n > s.free[best].n) {
				best = at
			}
		}
		s.rover += largeEnough // so that gaps too small now are not looked at for ever
		if best >= 0 {
			n = min(want, int64(s.free[best].n))
			start = int64(s.free[best].start)
			s.cut(best, uint32(n))
			s.rover = best
			return start, n, nil
		}
	}
	return s.append(want)
}

// takeRow gives exactly want blocks in a row.
func (s *space) takeRow(want int64) (start int64, err error) {
	for i := range min(len(s.free), largeEnough) {
		at := (s.rover + i) % len(s.free)
		if int64(s.free[at].n) >= want {
			start = int64(s.free[at].start)
			s.cut(at, uint32(want))
			return start, nil
		}
	}
	start, n, err := s.append(want)
	if err == nil && n < want {
		s.release(span{uint32(start), uint32(n)})
		err = errFull
	}
	return start, err
}

func (s *space) append(want int64) (start, n int64, err error) {
	start = s.end
	if n = min(want, maxBlocks-start); n <= 0 {
		return 0, 0, errFull
	}
	s.end += n
	return start, n, nil
}

// cut takes the first n blocks of a free span.
func (s *space) cut(i int, n uint32) {
	s.blocks -= int64(n)
	s.free[i].start += n
	s.free[i].n -= n
	if s.free[i].n == 0 {
		s.free = slices.Delete(s.free, i, i+1)
	}
}

// release makes blocks free.
func (s *space) release(spans ...span) {
	for _, r := range spans {
		s.blocks += int64(r.n)
	}
	switch {
	case len(spans) == 0:
		return
	case len(spans) <= 4:
		for _, r := range spans {
			i, _ := slices.BinarySearchFunc(s.free, r, byStart)
			s.free = slices.Insert(s.free, i, r)
			s.free = slices.Replace(s.free, max(i-1, 0), min(i+2, len(s.free)),
				mergeSpans(s.free[max(i-1, 0):min(i+2, len(s.free))])...)
		}
	default:
		slices.SortFunc(spans, byStart)
		merged := make([]span, 0, len(s.free)+len(spans))
		a, b := s.free, spans
		for len(a) > 0 || len(b) > 0 {
			if len(b) == 0 || len(a) > 0 && a[0].start < b[0].start {
				merged, a = append(merged, a[0]), a[1:]
			} else {
				merged, b = append(merged, b[0]), b[1:]
			}
		}
		s.free = mergeSpans(merged)
	}
}

func byStart(a, b span) int { return cmp.Compare(a.start, b.start) }

// mergeSpans joins neighbours of a sorted list, in a list of its own.
func mergeSpans(in []span) []span {
	out := make([]span, 0, len(in))
	for _, r := range in {
		if k := len(out) - 1; k >= 0 && out[k].start+out[k].n == r.start {
			out[k].n += r.n
		} else {
			out = append(out, r)
		}
	}
	return out
}

package sparse

import (
	"iter"
	"os"
)

// A Segment is a range of a file, in bytes.
type Segment struct {
	Offset, Length int64
}

// Segments gives the ranges of f between off and end that may hold data, in
// order; what lies between them is holes and reads as zeros. Where the system
// does not tell, it is one segment. An error ends the sequence.
func Segments(f *os.File, off, end int64) iter.Seq2[Segment, error] {
	return func(yield func(Segment, error) bool) {
		for off < end {
			data, hole, err := nextData(f, off, end)
			if err != nil {
				yield(Segment{}, err)
				return
			}
			if data >= end {
				return
			}
			hole = min(hole, end)
			if !yield(Segment{data, hole - data}, nil) {
				return
			}
			off = hole
		}
	}
}

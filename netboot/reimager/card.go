package reimager

import (
	"bytes"
	"fmt"
	"io"

	"hatchery/internal/reimage"
)

// A Card is the disk that is written.
type Card interface {
	io.ReaderAt
	io.WriterAt
	// Size is in bytes.
	Size() int64
	// Sync returns once what was written is on the medium.
	Sync() error
	// Forget has what is read from now on come from the medium, and from no memory
	// in between.
	Forget() error
}

const sector = 512

// The mark lies behind the order, in the piece that every list leaves free, for as long
// as the card holds neither its old system nor its new one.
const (
	markPlace = reimage.OrderPlace + reimage.OrderSize
	markText  = "hatchery writes this card 1\n"
)

// Touched says whether writing has begun on a card by an operation ("" for any): then
// what is on it is no system that may be started, until it is whole. A mark of another
// operation is of one that was cut off when all was written.
func Touched(card io.ReaderAt, operation string) (bool, error) {
	mark := markOf(operation)
	have := make([]byte, len(mark))
	if _, err := card.ReadAt(have, markPlace); err != nil {
		return false, readError(markPlace, err)
	}
	return bytes.Equal(have, mark), nil
}

func markOf(operation string) []byte {
	if operation == "" {
		return []byte(markText)
	}
	return []byte(markText + operation + "\n")
}

// writeMark sets the mark of an operation, or wipes it: "".
func writeMark(card Card, operation string) error {
	mark := make([]byte, sector)
	if operation != "" {
		copy(mark, markOf(operation))
	}
	if _, err := card.WriteAt(mark, markPlace); err != nil {
		return writeError(markPlace, err)
	}
	if err := card.Sync(); err != nil {
		return syncError(err)
	}
	return nil
}

// A span is a range of bytes of the card.
type span struct{ from, to int64 }

func (s span) empty() bool { return s.from >= s.to }

// and is what two have in common.
func (s span) and(o span) span { return span{max(s.from, o.from), min(s.to, o.to)} }

// without gives what is left of some spans when others are taken out.
func without(spans []span, out ...span) []span {
	for _, o := range out {
		var left []span
		for _, s := range spans {
			for _, part := range []span{{s.from, min(s.to, o.from)}, {max(s.from, o.to), s.to}} {
				if o.empty() {
					part = s
				}
				if !part.empty() {
					left = append(left, part)
				}
				if o.empty() {
					break
				}
			}
		}
		spans = left
	}
	return spans
}

// within gives what some spans have in common with others, which do not overlap.
func within(spans []span, others ...span) []span {
	var common []span
	for _, s := range spans {
		for _, o := range others {
			if c := s.and(o); !c.empty() {
				common = append(common, c)
			}
		}
	}
	return common
}

// bootEntry gives the first entry of a partition table: its type and its place;
// false for what is none on a card of a size.
func bootEntry(table []byte, size int64) (kind byte, at span, ok bool) {
	if len(table) < sector || table[510] != 0x55 || table[511] != 0xaa {
		return 0, span{}, false
	}
	e := table[446:462]
	le := func(b []byte) int64 {
		return int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16 | int64(b[3])<<24
	}
	at.from = le(e[8:]) * sector
	at.to = at.from + le(e[12:])*sector
	return e[4], at, e[4] != 0 && at.from > 0 && !at.empty() && at.to <= size
}

// Bootable says whether a board finds something on a card that it starts from: a boot
// partition with its first sector. A card on which that is being written has none.
func Bootable(card Card) (bool, error) {
	first := make([]byte, sector)
	if _, err := card.ReadAt(first, 0); err != nil {
		return false, readError(0, err)
	}
	_, at, ok := bootEntry(first, card.Size())
	if !ok {
		return false, nil
	}
	if _, err := card.ReadAt(first, at.from); err != nil {
		return false, readError(at.from, err)
	}
	return first[510] == 0x55 && first[511] == 0xaa, nil
}

// same says whether the card holds some bytes.
func same(card io.ReaderAt, at int64, want []byte) (bool, error) {
	have := make([]byte, len(want))
	if _, err := card.ReadAt(have, at); err != nil {
		return false, readError(at, err)
	}
	return bytes.Equal(have, want), nil
}

// A CardError says that a card cannot be read or written to, or does not keep what is
// written to it.
type CardError struct {
	Detail string
	Err    error // nil where it only loses what is written
}

func (e *CardError) Error() string {
	if e.Err == nil {
		return "the card " + e.Detail + ": replace it"
	}
	return fmt.Sprintf("the card %s: %v (replace it)", e.Detail, e.Err)
}

// Unwrap gives the card's own error.
func (e *CardError) Unwrap() error { return e.Err }

func readError(at int64, err error) error {
	return &CardError{fmt.Sprintf("cannot be read at byte %d", at), err}
}

func writeError(at int64, err error) error {
	return &CardError{fmt.Sprintf("cannot be written to at byte %d", at), err}
}

// syncError is for what the card was given and does not bring to its medium.
func syncError(err error) error { return &CardError{"does not take what is written to it", err} }

// forgetError is for a card whose medium cannot be compared with what was written.
func forgetError(err error) error {
	return fmt.Errorf("cannot have what was written read back from the card: %w", err)
}

var errLoses error = &CardError{Detail: "does not keep what is written to it"}

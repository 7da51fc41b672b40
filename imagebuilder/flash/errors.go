package flash

import (
	"errors"
	"fmt"

	"hatchery/internal/capacity"
)

// ErrUnfinished is matched by every error of [Write] after which the card
// holds a part of the image only.
var ErrUnfinished = errors.New(unfinishedText)

const unfinishedText = "the card is not finished and will not boot"

// unfinished adds to an error what it means for the card.
type unfinished struct{ err error }

func (e *unfinished) Error() string {
	var fake *FakeError
	if errors.As(e.err, &fake) { // going on would lead nowhere
		return e.err.Error() + "; it was not finished and will not boot"
	}
	return e.err.Error() + "; " + unfinishedText + ", and once that is put right, the same command goes on"
}

func (e *unfinished) Unwrap() []error { return []error{e.err, ErrUnfinished} }

// The operations that a CardError names.
const (
	opRead    = "read"
	opWrite   = "write"
	opSync    = "flush"
	opDiscard = "discard"
)

// A CardError is one of the card's own: it was pulled out, or a part of it is
// broken.
type CardError struct {
	Op             string // "read", "write", "flush", "discard"
	Offset, Length int64  // bytes; 0 of "flush"
	Err            error
}

func (e *CardError) Error() string {
	if e.Gone() {
		return fmt.Sprintf("the card is gone, pulled out or let down by its reader (%s at byte %d: %v)", e.Op, e.Offset, e.Err)
	}
	if e.Op == opSync {
		return fmt.Sprintf("the card did not confirm that it holds what was written: %v", e.Err)
	}
	return fmt.Sprintf("cannot %s %d bytes at byte %d of the card: %v", e.Op, e.Length, e.Offset, e.Err)
}

func (e *CardError) Unwrap() error { return e.Err }

// Gone says that there is no card any more, so that trying again is no use.
func (e *CardError) Gone() bool { return gone(e.Err) }

// gone says whether an error of the system means that the device is not there.
func gone(err error) bool {
	for _, number := range goneNumbers {
		if errors.Is(err, number) {
			return true
		}
	}
	return false
}

// A MismatchError says where the card reads as something else than what was
// written there, twice.
type MismatchError struct {
	Offset, Length int64 // of the first range, in bytes
	More           int   // ranges beside it
}

func (e *MismatchError) Error() string {
	more := ""
	if e.More > 0 {
		more = fmt.Sprintf(", and %d more such ranges", e.More)
	}
	return fmt.Sprintf("the card does not hold what was written to it: %d bytes at byte %d read back differently%s: try another reader, or another card",
		e.Length, e.Offset, more)
}

// A DifferenceError is [Verify]'s: the card holds something else than the image.
type DifferenceError struct {
	Offset, Length int64 // of the first range, in bytes
	More           int   // ranges beside it
}

func (e *DifferenceError) Error() string {
	more := ""
	if e.More > 0 {
		more = fmt.Sprintf(", and in %d more ranges", e.More)
	}
	return fmt.Sprintf("the card differs from the image in %d bytes at byte %d%s", e.Length, e.Offset, more)
}

// A SourceError says that the image could not be read, or is not what its map
// says.
type SourceError struct {
	Offset, Length int64 // bytes; a length of 0 is of unknown place
	Err            error
}

func (e *SourceError) Error() string {
	if e.Length == 0 {
		return fmt.Sprintf("cannot read the image: %v", e.Err)
	}
	return fmt.Sprintf("cannot take %d bytes at byte %d of the image: %v", e.Length, e.Offset, e.Err)
}

func (e *SourceError) Unwrap() error { return e.Err }

// The reasons of a SourceError that are the content's.
var (
	// ErrChecksum says that the content has not the checksum of the map: the
	// image is damaged, or was changed after it was made.
	ErrChecksum = errors.New("its checksum is not that of the block map: the image is damaged or has been changed; make or fetch it again")
	// ErrChanged says that the image was changed while it was written.
	ErrChanged = errors.New("it was changed while it was written")
)

// A TooSmallError says that an image has no room on a card. Nothing was
// written.
type TooSmallError struct {
	Card, Need int64 // bytes
}

func (e *TooSmallError) Error() string {
	return fmt.Sprintf("the card is too small: it has %s (%d bytes), the image needs %s (%d bytes)", capacity.Text(e.Card), e.Card, capacity.Text(e.Need), e.Need)
}

// A FakeError says that a card has not the room that it claims.
type FakeError struct {
	Claimed int64 // bytes
	Real    int64 // bytes, at most
	Wraps   bool  // what lies behind is written over the beginning; else it is lost
}

func (e *FakeError) Error() string {
	how := "is lost"
	if e.Wraps {
		how = "overwrites its beginning"
	}
	return fmt.Sprintf("the card is a fake: it claims %s and has no more than %s, and what is written behind that %s: do not use it",
		capacity.Text(e.Claimed), capacity.Text(e.Real), how)
}

package reimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A ForeignError says that somebody else has something on a card where the order has to
// lie: a boot loader, say.
type ForeignError struct{ At int64 } // bytes from the card's beginning

func (e *ForeignError) Error() string {
	return fmt.Sprintf("something lies at byte %d of the card, between its partition table and its first partition, where the order has to lie", e.At)
}

// Cards that hatchery flashed until it left this place alone have a probe here: random
// bytes, by which fake cards are found, at every power of two from 1 MiB on that is in no
// partition. They have no name on them, so both of the first two have to be there, and
// nothing else around the one in the place. An order that was cut off when it was written
// over that one has left some of its sectors.
const (
	sector      = 512
	probeSize   = 4096
	secondProbe = 2 * OrderPlace
)

// CheckPlace says whether an order can be written to a card without writing over what is
// somebody else's: a *ForeignError, or the card's error. Free is what is zero, what was an
// order, whole, damaged or cut off at its writing, and a probe that an earlier `hatchery
// flash` has left. Whether a partition lies there is not looked at.
func CheckPlace(card io.ReaderAt) error {
	place := make([]byte, OrderSize+sector) // the mark lies behind it
	if n, err := card.ReadAt(place, OrderPlace); n < len(place) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // a card this small holds none
		}
		return fmt.Errorf("cannot read the order's place on the card: %w", err)
	}
	var foreign []int // sectors
	for at := 0; at < len(place); at += sector {
		if half := at / copySize * copySize; !IsOrder(place[half:]) && !isText(place[at:at+sector]) {
			foreign = append(foreign, at)
		}
	}
	if len(foreign) == 0 {
		return nil
	}
	for _, at := range foreign {
		if at >= probeSize || !isRandom(place[at:at+sector]) {
			return &ForeignError{OrderPlace + int64(foreign[0])}
		}
	}
	second := make([]byte, probeSize)
	n, err := card.ReadAt(second, secondProbe)
	switch {
	case n == len(second) && second[510] == 0 && isRandom(second): // that byte has it be nothing that boots
		return nil
	case n == len(second), errors.Is(err, io.EOF):
		return &ForeignError{OrderPlace + int64(foreign[0])}
	}
	return fmt.Errorf("cannot read the card: %w", err)
}

// isText says whether a sector is text, as JSON and PEM are, with zeros behind it: a part of
// an order that was cut off at its writing, or the mark.
func isText(sector []byte) bool {
	for _, b := range bytes.TrimRight(sector, "\x00") {
		if (b < ' ' || b > '~') && b != '\n' {
			return false
		}
	}
	return true
}

// isRandom says whether bytes are as random ones are: of those each of the 256 values is
// there as often as the others, give or take, and the chi-squared statistic of that has a
// mean of 255 and a deviation of 23. Programs and texts have thousands.
func isRandom(b []byte) bool {
	var count [256]int
	for _, v := range b {
		count[v]++
	}
	expected := len(b) / len(count)
	squares := 0
	for _, n := range count {
		squares += (n - expected) * (n - expected)
	}
	chi := squares / expected
	return 110 < chi && chi < 420
}

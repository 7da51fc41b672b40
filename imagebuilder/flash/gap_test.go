package flash_test

import (
	"bytes"
	"errors"
	"testing"

	"hatchery/imagebuilder/flash"
	"hatchery/internal/imagetest"
	"hatchery/internal/sparse"
)

// TestGap has nothing left on a card between its partition table and its first
// partition but what the image has there: neither what the card held before, nor what
// flashing itself tried there.
func TestGap(t *testing.T) {
	im := miniature(t)
	loader := miniature(t)
	copy(loader.data[8192:], "a boot loader")
	loader = built(t, loader.data)
	for _, test := range []struct {
		summary string
		im      *image
		o       flash.Options
	}{
		{"an image of hatchery's", im, flash.Options{Grow: true}},
		{"all of it", im, flash.Options{Mode: flash.Full}},
		{"compared", im, flash.Options{Mode: flash.Delta}},
		{"one with a boot loader", loader, flash.Options{}},
		{"not read back", loader, flash.Options{NoVerify: true}},
	} {
		for name, source := range sources(test.im) {
			c := newCard(t, 160<<20)
			fill(c.data[:1<<20], 3) // somebody's
			write(t, c, source(), test.o)
			if !bytes.Equal(c.data[4096:imagetest.BootStart], test.im.data[4096:imagetest.BootStart]) {
				t.Errorf("%s, %s: between table and first partition lies something else than in the image, first at %d",
					test.summary, name, mismatch(c.data[:imagetest.BootStart], test.im.data))
			}
			holds(t, c, test.im)
			c.forget()
			if r := write(t, c, source(), flash.Options{Mode: flash.Delta, Grow: test.o.Grow}); !r.Untouched {
				t.Errorf("%s, %s: compared once more it is written: %+v", test.summary, name, r)
			}
		}
	}
}

func mismatch(a, b []byte) int {
	for i := 4096; i < len(a); i++ {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// A card that was flashed when the gap was used for trying the card's size is one that
// differs, and is mended.
func TestGapOfBefore(t *testing.T) {
	im := miniature(t)
	c := newCard(t, 160<<20)
	write(t, c, im, flash.Options{})
	fill(c.data[1<<20:1<<20+4096], 5)
	_, err := flash.Verify(background, c, im, flash.Options{})
	var differs *flash.DifferenceError
	if !errors.As(err, &differs) || differs.Offset != 1<<20 {
		t.Errorf("%v", err)
	}
	r := write(t, c, im, flash.Options{Mode: flash.Delta})
	if r.Untouched || r.Written > 1<<20 || !sparse.IsZero(c.data[4096:imagetest.BootStart]) {
		t.Errorf("%+v", r)
	}
}

// Where it is not known where the first partition is, nothing is taken for a gap.
func TestNoGap(t *testing.T) {
	im := newImage(9<<20, 4, 1)
	clear(im.data[440:512]) // no table
	im.sum()
	c := newCard(t, 64<<20)
	c.noDiscard = true
	fill(c.data[:1<<20], 3)
	write(t, c, im, flash.Options{})
	holds(t, c, im)
	for at := 8192; at < 9<<20; at += 4096 {
		if sparse.IsZero(c.data[at : at+4096]) {
			t.Fatalf("byte %d belongs to nobody, and was cleared", at)
		}
	}
}

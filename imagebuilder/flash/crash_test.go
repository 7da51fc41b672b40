package flash_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"hatchery/imagebuilder/flash"
)

// right says whether a card has the image, or all that lies behind the head,
// of which the first block is the note still.
func right(c *memory, im *image) bool {
	if c.data[510] == 0x55 && c.data[511] == 0xaa {
		return len(differences(c, im)) == 0
	}
	rest := &memory{data: slices.Clone(c.data)}
	copy(rest.data[:4096], im.data)
	return len(differences(rest, im)) == 0
}

// TestCrash takes the power away at every operation. What was not flushed is on
// the medium or not, block by block.
func TestCrash(t *testing.T) {
	im := newImage(2<<20, 6, 1)
	old := im.changed(2, 5, 6, 7)
	copy(old.data[1000:], "of the old image")
	old.sum()
	for _, start := range []struct {
		summary string
		on      *image
		o       flash.Options
		block   int
		at      [2]int
		gpt     bool // with a table in the first blocks, like the image
	}{
		{summary: "on a card as sold", block: 512},
		{summary: "on an older image", on: old, o: flash.Options{Mode: flash.Delta}, block: 512},
		{summary: "on an older image, all of it", on: old, o: flash.Options{Mode: flash.Full, Grow: true}, block: 512},
		{summary: "blocks of 4096 bytes", on: old, o: flash.Options{Mode: flash.Delta}, block: 4096},
		{summary: "a table behind the first block", on: old, gpt: true, block: 512},
	} {
		t.Run(start.summary, func(t *testing.T) {
			t.Parallel()
			im := im
			if start.gpt {
				im = im.changed()
				copy(im.data[512:], "EFI PART and more")
				im.sum()
			}
			for seed := range uint64(2) {
				for k, done := 0, false; !done; k++ {
					c := newCard(t, 5<<20)
					c.block = start.block
					if start.on != nil {
						copy(c.data, start.on.data)
					}
					before := slices.Clone(c.data)
					random := rand.New(rand.NewPCG(seed, uint64(k)))
					var n atomic.Int64
					c.fault = func(op, []byte) (bool, int, error) { return n.Add(1) > int64(k), 0, errGone }
					_, err := flash.Write(background, c, im, start.o)
					c.crash(random)
					switch {
					case boots(c) && !right(c, im) && !bytes.Equal(c.data, before):
						t.Fatalf("crash at operation %d: it boots, and is neither old nor new (error: %v)", k, err)
					case err == nil && len(differences(c, im)) > 0:
						t.Fatalf("after %d operations: done without being so", k)
					}
					if done = err == nil; done {
						continue
					}
					if !errors.As(err, new(*flash.CardError)) {
						t.Fatal(err)
					}
					var left int64
					for _, r := range im.m.Ranges {
						off, n := im.m.Bytes(r)
						if !bytes.Equal(c.data[off:off+n], im.data[off:off+n]) || off == 0 {
							left += n
						}
					}
					h, err := flash.Inspect(background, c)
					if err != nil {
						t.Fatal(err)
					}
					o := start.o
					o.Mode = flash.Auto
					r := write(t, c, im, o)
					holds(t, c, im)
					if h.Kind == flash.Unfinished && r.Written > left+4096+34*512 {
						t.Fatalf("crash at operation %d: %d bytes were not there, and %d were written", k, left, r.Written)
					}
					if h.Kind == flash.Unfinished && r.Mode != flash.Delta {
						t.Errorf("mode %s", r.Mode)
					}
				}
			}
		})
	}
}

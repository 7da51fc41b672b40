package flash_test

import (
	"encoding/binary"
	"testing"

	"hatchery/imagebuilder/flash"
	"hatchery/internal/bmap"
)

// sources are the ways in which an image can come.
func sources(im *image) map[string]func() flash.Source {
	return map[string]func() flash.Source{
		"read at any place":                func() flash.Source { return im },
		"read, no checksums":               func() flash.Source { return im.unsummed() },
		"streamed":                         func() flash.Source { return &stream{im: im} },
		"streamed by several":              func() flash.Source { return &stream{im: im, workers: 5} },
		"streamed by more than buffers":    func() flash.Source { return &stream{im: im, workers: 40} },
		"streamed by several, no checksum": func() flash.Source { return &stream{im: im.unsummed(), workers: 3} },
	}
}

func TestWrite(t *testing.T) {
	for _, size := range []int64{21 << 20, 5<<20 + 512, 6<<20 + 100, 4096} {
		im := newImage(size, 6, 1)
		for name, source := range sources(im) {
			for _, block := range []int{512, 4096} {
				c := newCard(t, 30<<20)
				c.block = block
				r := write(t, c, source(), flash.Options{})
				holds(t, c, im)
				if r.Mode != flash.Full || r.Before.Kind != flash.Empty || r.Untouched {
					t.Errorf("%s: result %+v", name, r)
				}
				mapped := im.m.Mapped() * bmap.BlockSize
				if r.Mapped > mapped || r.Mapped <= mapped-4096 || r.Written < r.Mapped || r.Verified < r.Mapped-4096 {
					t.Errorf("%s: of %d bytes, %d are mapped, %d written, %d read back", name, mapped, r.Mapped, r.Written, r.Verified)
				}
				again := write(t, c, source(), flash.Options{Mode: flash.Delta})
				if !again.Untouched || again.Written != 0 {
					t.Errorf("%s: written again: %+v", name, again)
				}
			}
		}
	}
}

func TestGrow(t *testing.T) {
	im := newImage(24<<20, 6, 1)
	c := newCard(t, 63<<20)
	r := write(t, c, im, flash.Options{Grow: true})
	if r.Grown == nil || *r.Grown != (flash.Grown{Partition: 2, From: 24<<20 - 128<<10, To: 60<<20 - 128<<10}) {
		t.Errorf("grown %+v, not: %s", r.Grown, r.NotGrown)
	}
	if got := binary.LittleEndian.Uint32(c.data[446+16+12:]); got != (60<<20-128<<10)/512 {
		t.Errorf("the entry has %d sectors", got)
	}
	holds(t, c, im)
	if r := write(t, c, im, flash.Options{Grow: true, Mode: flash.Delta}); !r.Untouched {
		t.Errorf("written again: %+v", r)
	}
}

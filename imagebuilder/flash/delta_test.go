package flash_test

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"hatchery/imagebuilder/flash"
)

// wrote gives the writes to what an image has mapped, without the head.
func wrote(c *memory, im *image) (out []op) {
	for _, o := range c.ops {
		if o.kind != "write" || o.off < 4096 {
			continue
		}
		for _, r := range im.m.Ranges {
			if off, n := im.m.Bytes(r); o.off < off+n && off < o.off+o.n {
				out = append(out, o)
				break
			}
		}
	}
	return out
}

func TestDelta(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	delta := flash.Options{Mode: flash.Delta, Grow: true}
	for name, source := range sources(im) {
		c := newCard(t, 18<<20)
		write(t, c, source(), flash.Options{Grow: true})

		c.forget()
		r := write(t, c, source(), delta)
		for _, kind := range []string{"write", "discard", "sync"} {
			if n, _ := c.count(kind); n > 0 {
				t.Errorf("%s: nothing to do, and yet %d times %s", name, n, kind)
			}
		}
		if !r.Untouched || r.Compared < r.Mapped-8192 {
			t.Errorf("%s: %+v", name, r)
		}

		_, off, n := mapped(im, 8)
		c.data[off+n-1] ^= 4
		c.forget()
		r = write(t, c, source(), delta)
		holds(t, c, im)
		if got := wrote(c, im); len(got) != 1 || got[0] != (op{"write", off, n}) {
			t.Errorf("%s: one piece at %d (%d) was wrong, written were %v", name, off, n, got)
		}
		if r.Written != n+4096 || r.Verified != n || r.Untouched {
			t.Errorf("%s: %+v", name, r)
		}
		if n, _ := c.count("discard"); n == 0 {
			t.Errorf("%s: what the image does not hold was not discarded", name)
		}

		// The piece that has the head as well.
		c.data[5000] ^= 4
		c.forget()
		write(t, c, source(), delta)
		holds(t, c, im)
		if got := wrote(c, im); len(got) != 1 || got[0].off != 4096 {
			t.Errorf("%s: written were %v", name, got)
		}

		// Only the head.
		c.data[100] ^= 4
		c.forget()
		r = write(t, c, source(), delta)
		holds(t, c, im)
		if got := wrote(c, im); len(got) != 0 || r.Written != 4096 {
			t.Errorf("%s: written were %v", name, got)
		}

		// A card that was used.
		random := rand.New(rand.NewPCG(1, 2))
		hit := map[int64]bool{}
		for range 10 {
			at := random.Int64N(9<<20/512) * 512
			fill(c.data[at:at+512], 77)
			for _, r := range im.m.Ranges {
				if off, n := im.m.Bytes(r); at >= off && at < off+n && at >= 4096 {
					hit[max(off, 4096)] = true
				}
			}
		}
		c.forget()
		write(t, c, source(), delta)
		holds(t, c, im)
		var written int64
		for _, o := range wrote(c, im) {
			written += o.n
		}
		if len(hit) < 3 || written > int64(len(hit))*flash.PieceSize || len(wrote(c, im)) > len(hit) {
			t.Errorf("%s: %d pieces were changed, %v written", name, len(hit), wrote(c, im))
		}
	}
}

// What cannot be read is written.
func TestDeltaUnreadable(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	for name, source := range sources(im) {
		c := newCard(t, 18<<20)
		write(t, c, source(), flash.Options{})
		place, off, n := mapped(im, 8)
		var written atomic.Bool
		c.fault = func(o op, _ []byte) (bool, int, error) {
			if o.is("write", place) {
				written.Store(true)
			}
			return !written.Load() && o.is("read", place), 0, errIO
		}
		c.forget()
		write(t, c, source(), flash.Options{Mode: flash.Delta})
		if got := wrote(c, im); !slices.Equal(got, []op{{"write", off, n}}) {
			t.Errorf("%s: written were %v", name, got)
		}
	}
}

func TestVerify(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	for name, source := range sources(im) {
		c := newCard(t, 18<<20)
		write(t, c, source(), flash.Options{Grow: true})
		c.forget()
		if _, err := flash.Verify(background, c, source(), flash.Options{Grow: true}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		place, off, n := mapped(im, 8)
		c.data[place] ^= 1
		_, err := flash.Verify(background, c, source(), flash.Options{Grow: true})
		if d, ok := err.(*flash.DifferenceError); !ok || d.Offset != off || d.Length != n || d.More != 0 {
			t.Errorf("%s: %v", name, err)
		}
		c.data[100] ^= 1
		_, err = flash.Verify(background, c, source(), flash.Options{Grow: true})
		if d, ok := err.(*flash.DifferenceError); !ok || d.Offset != 0 || d.More != 1 {
			t.Errorf("%s: %v", name, err)
		}
		if n, _ := c.count("write"); n > 0 {
			t.Errorf("%s: %d writes", name, n)
		}
	}
}

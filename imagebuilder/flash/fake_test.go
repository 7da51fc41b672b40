package flash_test

import (
	"errors"
	"testing"

	"hatchery/imagebuilder/flash"
)

// TestFake has cards that claim more than they have.
func TestFake(t *testing.T) {
	const mib = 1 << 20
	im := newImage(9*mib, 6, 1)
	// lost has what lies behind a place read as a pattern.
	lost := func(real int64) func(c *memory) {
		return func(c *memory) {
			c.fault = func(o op, p []byte) (bool, int, error) {
				if o.off+o.n <= real || o.kind == "sync" {
					return false, 0, nil
				}
				n := max(0, real-o.off)
				switch o.kind {
				case "write":
					c.store(p[:n], o.off)
				case "read":
					c.mu.Lock()
					copy(p[:n], c.data[min(o.off, real):])
					c.mu.Unlock()
					for i := range p[n:] {
						p[n:][i] = 0xff
					}
				}
				return true, len(p), nil
			}
		}
	}
	wraps := func(real int64) func(c *memory) {
		return func(c *memory) {
			c.fault = func(o op, p []byte) (bool, int, error) {
				for i := int64(0); i < int64(len(p)); i += 512 {
					at := (o.off + i) % real
					if o.kind == "write" {
						c.store(p[i:i+512], at)
						continue
					}
					c.mu.Lock()
					copy(p[i:i+512], c.data[at:])
					c.mu.Unlock()
				}
				return o.kind != "sync", len(p), nil
			}
		}
	}
	refuses := func(real int64) func(c *memory) {
		return func(c *memory) {
			c.fault = func(o op, p []byte) (bool, int, error) { return o.kind != "sync" && o.off+o.n > real, 0, errIO }
		}
	}
	for _, test := range []struct {
		summary string
		claimed int64
		real    int64
		how     func(real int64) func(c *memory)
		least   int64 // of what is believed to be there
		most    int64
		wraps   bool
	}{
		{"what is behind is lost", 64 * mib, 16 * mib, lost, 16 * mib, 24 * mib, false},
		{"behind an odd size too", 64 * mib, 11*mib + 512, lost, 11 * mib, 16 * mib, false},
		{"it has a quarter of the image", 64 * mib, 2*mib + mib/2, lost, 2 * mib, 5 * mib, false},
		{"addresses wrap", 64 * mib, 16 * mib, wraps, 16 * mib, 16 * mib, true},
		{"addresses wrap within the image", 64 * mib, 4 * mib, wraps, 4 * mib, 8 * mib, true},
		{"addresses wrap at an odd size", 64 * mib, 10*mib + 3*4096, wraps, 10 * mib, 64 * mib, true},
		{"addresses wrap once", 32 * mib, 16 * mib, wraps, 16 * mib, 16 * mib, true},
		{"writes behind fail", 64 * mib, 16 * mib, refuses, 16 * mib, 24 * mib, false},
		{"it claims a little more", 17 * mib, 16 * mib, lost, 16 * mib, 17 * mib, false},
	} {
		for name, source := range sources(im) {
			c := newCard(t, test.claimed)
			c.noDiscard = true
			test.how(test.real)(c)
			r, err := flash.Write(background, c, source(), flash.Options{Target: "p1"})
			var fake *flash.FakeError
			if !errors.As(err, &fake) || !errors.Is(err, flash.ErrUnfinished) {
				t.Errorf("%s, %s: error %v", test.summary, name, err)
				continue
			}
			if fake.Claimed != test.claimed || fake.Real < test.least || fake.Real > test.most || fake.Wraps != test.wraps {
				t.Errorf("%s, %s: %+v", test.summary, name, fake)
			}
			if boots(c) {
				t.Errorf("%s, %s: it boots", test.summary, name)
			}
			if r.Written > 0 && test.real%mib == 0 {
				t.Errorf("%s, %s: %d bytes were written before it was found out", test.summary, name, r.Written)
			}
		}
	}
}

// A bad place among good ones is no fake.
func TestBadPlace(t *testing.T) {
	im := newImage(5<<20, 6, 1)
	c := newCard(t, 64<<20)
	c.noDiscard = true
	c.during("read", 16<<20, func(_ int, p []byte) (bool, int, error) { fill(p, 5); return true, len(p), nil })
	_, err := flash.Write(background, c, im, flash.Options{})
	var mismatch *flash.MismatchError
	if !errors.As(err, &mismatch) || mismatch.Offset != 16<<20 || !errors.Is(err, flash.ErrUnfinished) {
		t.Errorf("error %v", err)
	}
}

func TestTooSmall(t *testing.T) {
	full := newImage(9<<20, 10, 1) // mapped to its end
	c := newCard(t, 8<<20)
	_, err := flash.Write(background, c, full, flash.Options{})
	var small *flash.TooSmallError
	if !errors.As(err, &small) || small.Card != 8<<20 || small.Need != 9<<20 || errors.Is(err, flash.ErrUnfinished) {
		t.Errorf("error %v", err)
	}
	// The last blocks are not mapped, and still the partition reaches there.
	short := newImage(9<<20, 10, 1)
	short.m.Ranges = short.m.Ranges[:10]
	if _, err := flash.Write(background, c, short, flash.Options{}); !errors.As(err, &small) || small.Need != 9<<20 {
		t.Errorf("error %v", err)
	}
	if n, _ := c.count("write"); n > 0 {
		t.Errorf("%d writes", n)
	}
	// Where nothing is behind it, it may be smaller than the image.
	short.data[446+16+12], short.data[446+16+13], short.data[446+16+14] = 0, 8, 0
	short.sum()
	write(t, c, short, flash.Options{})
	holds(t, c, short)
}

package flash_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/imagebuilder/flash"
)

// mapped gives a place in the middle of some mapped range of an image.
func mapped(im *image, i int) (place, off, n int64) {
	i = (i + len(im.m.Ranges)) % len(im.m.Ranges)
	off, n = im.m.Bytes(im.m.Ranges[i])
	return off + n/2, off, n
}

func TestFaults(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	place, off, n := mapped(im, -4)
	flip := func(c *memory, until int) {
		c.during("write", place, func(before int, p []byte) (bool, int, error) {
			if before >= until {
				return false, 0, nil
			}
			c.mu.Lock()
			ops := slices.Clone(c.ops)
			c.mu.Unlock()
			for _, o := range slices.Backward(ops) { // the one that p belongs to
				if o.is("write", place) && o.n == int64(len(p)) {
					bad := slices.Clone(p)
					bad[place-o.off] ^= 0x10
					return true, c.store(bad, o.off), nil
				}
			}
			panic("no such operation")
		})
	}
	isRange := func(o, l int64) bool { return o <= place && place < o+l && o >= off && o+l <= off+n }
	var card *flash.CardError
	var mismatch *flash.MismatchError
	for _, test := range []struct {
		summary string
		fault   func(c *memory)
		after   func(t *testing.T, c *memory, r *flash.Result, err error) // nil: all is well
		retried bool                                                      // a range was written twice
	}{
		{summary: "a write fails once", fault: func(c *memory) {
			c.during("write", place, func(before int, _ []byte) (bool, int, error) { return before == 0, 0, errIO })
		}},
		{summary: "a write fails always", fault: func(c *memory) {
			c.during("write", place, func(int, []byte) (bool, int, error) { return true, 0, errIO })
		}, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if !errors.As(err, &card) || card.Op != "write" || !isRange(card.Offset, card.Length) || card.Gone() || !errors.Is(err, errIO) {
				t.Error(err)
			}
		}},
		{summary: "a write is short once", fault: func(c *memory) {
			c.during("write", place, func(before int, p []byte) (bool, int, error) { return before == 0, 512, nil })
		}},
		{summary: "writes are short always", fault: func(c *memory) {
			c.during("write", place, func(before int, p []byte) (bool, int, error) { return true, len(p) - 512, nil })
		}, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if !errors.As(err, &card) || !errors.Is(err, io.ErrShortWrite) || !isRange(card.Offset, card.Length) {
				t.Error(err)
			}
		}},
		{summary: "a bit flips once", retried: true, fault: func(c *memory) { flip(c, 1) }},
		{summary: "a bit flips always", retried: true, fault: func(c *memory) { flip(c, 1000) }, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if !errors.As(err, &mismatch) || !isRange(mismatch.Offset, mismatch.Length) || mismatch.More != 0 {
				t.Error(err)
			}
		}},
		{summary: "reading back is wrong once", retried: true, fault: func(c *memory) {
			c.during("read", place, func(before int, p []byte) (bool, int, error) { clear(p); return before == 0, len(p), nil })
		}},
		{summary: "reading back fails once", fault: func(c *memory) {
			c.during("read", place, func(before int, p []byte) (bool, int, error) { return before == 0, 0, errIO })
		}},
		{summary: "reading back fails until it is written again", retried: true, fault: func(c *memory) {
			c.during("read", place, func(before int, p []byte) (bool, int, error) { return before < 2, 0, errIO })
		}},
		{summary: "reading back fails always", retried: true, fault: func(c *memory) {
			c.during("read", place, func(before int, p []byte) (bool, int, error) { return true, 0, errIO })
		}, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if !errors.As(err, &card) || card.Op != "read" || !isRange(card.Offset, card.Length) {
				t.Error(err)
			}
		}},
		{summary: "the data is not confirmed", fault: func(c *memory) {
			c.during("sync", 0, func(before int, _ []byte) (bool, int, error) { return before == 2, 0, errIO })
		}, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if !errors.As(err, &card) || card.Op != "flush" || r.Verified != 0 {
				t.Errorf("%v, %+v", err, r)
			}
		}},
		{summary: "discarding fails", fault: func(c *memory) {
			c.fault = func(o op, _ []byte) (bool, int, error) { return o.kind == "discard", 0, errIO }
		}, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if err != nil || r.Discard != "failed" || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "discard") {
				t.Errorf("%v, %+v", err, r)
			}
		}},
		{summary: "discarding is not supported", fault: func(c *memory) { c.noDiscard = true }, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if err != nil || r.Discard != "unsupported" || len(r.Warnings) != 0 || r.Discarded != 0 {
				t.Errorf("%v, %+v", err, r)
			}
		}},
		{summary: "the card goes while it discards", fault: func(c *memory) {
			c.fault = func(o op, _ []byte) (bool, int, error) { return o.kind == "discard", 0, errGone }
		}, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if !errors.As(err, &card) || !card.Gone() {
				t.Error(err)
			}
		}},
		{summary: "the first block is not taken once", fault: func(c *memory) {
			c.during("write", 0, func(before int, p []byte) (bool, int, error) { return before == 1, len(p), nil })
		}, retried: true},
		{summary: "the first block fails always", fault: func(c *memory) {
			c.during("write", 0, func(before int, p []byte) (bool, int, error) { return before >= 1, 0, errIO })
		}, after: func(t *testing.T, c *memory, r *flash.Result, err error) {
			if !errors.As(err, &card) || card.Offset != 0 || card.Op != "write" {
				t.Error(err)
			}
		}},
	} {
		for name, source := range sources(im) {
			t.Run(test.summary+"/"+name, func(t *testing.T) {
				c := newCard(t, 18<<20)
				test.fault(c)
				r, err := flash.Write(background, c, source(), flash.Options{Cluster: "homelab", Target: "p1"})
				if test.after != nil {
					test.after(t, c, r, err)
				} else if err != nil {
					t.Fatal(err)
				}
				if err != nil {
					if !errors.Is(err, flash.ErrUnfinished) || boots(c) {
						t.Errorf("error %v; boots: %v", err, boots(c))
					}
					c.fault = nil
					write(t, c, source(), flash.Options{})
				}
				holds(t, c, im)
				if test.retried != (len(r.Rewritten) > 0) {
					t.Errorf("written again: %+v", r.Rewritten)
				}
			})
		}
	}
}

// A card that is worn out takes writes and keeps nothing.
func TestKeepsNothing(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	c := newCard(t, 18<<20)
	copy(c.data, im.changed(0, 3).data)
	before := slices.Clone(c.data)
	c.fault = func(o op, p []byte) (bool, int, error) { return o.kind != "read", len(p), nil }
	var mismatch *flash.MismatchError
	_, err := flash.Write(background, c, im, flash.Options{})
	if !errors.As(err, &mismatch) || mismatch.Offset != 0 || errors.Is(err, flash.ErrUnfinished) {
		t.Error(err)
	}
	if !slices.Equal(before, c.data) {
		t.Error("it kept something")
	}
}

// A reader that vanishes ends the work at once, wherever that is.
func TestVanishes(t *testing.T) {
	im := newImage(3<<20, 6, 1)
	probe := newCard(t, 7<<20)
	write(t, probe, im, flash.Options{})
	all := len(probe.ops)
	for k := range all {
		c := newCard(t, 7<<20)
		var n, after atomic.Int64
		c.fault = func(op, []byte) (bool, int, error) {
			if n.Add(1) <= int64(k) {
				return false, 0, nil
			}
			after.Add(1)
			return true, 0, errGone
		}
		_, err := flash.Write(background, c, im, flash.Options{})
		var card *flash.CardError
		if !errors.As(err, &card) || !card.Gone() {
			t.Fatalf("after %d operations: %v", k, err)
		}
		if after.Load() > 12 {
			t.Errorf("after %d operations it was asked %d times more", k, after.Load())
		}
		if boots(c) && len(differences(c, im)) > 0 {
			t.Fatalf("after %d operations it boots", k)
		}
		if wrote := slices.ContainsFunc(c.ops[:min(k, len(c.ops))], func(o op) bool { return o.kind == "write" }); wrote && !errors.Is(err, flash.ErrUnfinished) {
			t.Errorf("after %d operations: %v", k, err)
		}
	}
}

// A card that hangs does not keep one who interrupts.
func TestHangs(t *testing.T) {
	im := newImage(12<<20, 6, 1)
	for _, kind := range []string{"read", "write", "sync", "discard"} {
		c := newCard(t, 20<<20)
		hang, hanging := make(chan struct{}), make(chan struct{}, 100)
		defer close(hang)
		c.fault = func(o op, _ []byte) (bool, int, error) {
			if o.kind != kind {
				return false, 0, nil
			}
			hanging <- struct{}{}
			<-hang
			return true, 0, errGone
		}
		ctx, cancel := context.WithCancel(background)
		go func() {
			<-hanging
			cancel()
		}()
		r, err := flash.Write(ctx, c, im, flash.Options{Patience: time.Millisecond})
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "does not answer") || r == nil {
			t.Errorf("%s: %v", kind, err)
		}
		if errors.Is(err, flash.ErrUnfinished) != (kind != "read") {
			t.Errorf("%s: %v", kind, err)
		}
		if kind == "read" {
			ctx, cancel := context.WithCancel(background)
			cancel()
			if _, err := flash.Inspect(ctx, c); !errors.Is(err, context.Canceled) {
				t.Errorf("Inspect: %v", err)
			}
		}
	}
}

// An interrupt leaves the card as it was, or as one that does not boot.
func TestInterrupted(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	why := errors.New("interrupted")
	for _, mode := range []flash.Mode{flash.Full, flash.Delta} {
		for _, phase := range []string{"compare", "prepare", "discard", "write", "read back"} {
			for name, source := range sources(im) {
				c := newCard(t, 18<<20)
				copy(c.data, im.changed(5, 9).data)
				before := slices.Clone(c.data)
				ctx, cancel := context.WithCancelCause(background)
				report := &reporter{begun: func(name string) {
					if strings.HasPrefix(name, phase) {
						cancel(why)
					}
				}}
				_, err := flash.Write(ctx, c, source(), flash.Options{Target: "p1", Mode: mode, Progress: report})
				cancel(nil)
				if !report.has(phase) {
					if err != nil {
						t.Fatal(err)
					}
					continue // not in this mode
				}
				if !errors.Is(err, why) {
					t.Errorf("%s of %s, %s: %v", phase, mode, name, err)
				}
				wrote, _ := c.count("write")
				if errors.Is(err, flash.ErrUnfinished) != (wrote > 0) || boots(c) != (wrote == 0) {
					t.Errorf("%s of %s, %s: %v after %d writes, boots: %v", phase, mode, name, err, wrote, boots(c))
				}
				if wrote == 0 && !slices.Equal(before, c.data) {
					t.Error("it was written to")
				}
				write(t, c, source(), flash.Options{})
				holds(t, c, im)
			}
		}
	}
}

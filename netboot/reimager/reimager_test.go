package reimager_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"hatchery/internal/reimage"
	"hatchery/netboot/reimager"
)

const (
	mib  = 1 << 20
	kib  = 1 << 10
	full = 4*mib + 3*sector // of an image: its last piece is short
)

// usual is a boot partition as Raspberry Pi OS has it, but small, and at no piece's
// beginning or end.
var usual = layout{bootStart: 5*mib/4 + 3*sector, bootSize: 512*kib + 5*sector, kind: 0x0c}

// rom is what a board's boot ROM finds on a card: the boot partition's bytes, nil where
// it finds none.
func rom(medium []byte) []byte {
	if medium[510] != 0x55 || medium[511] != 0xaa {
		return nil
	}
	e := medium[446:462]
	le := func(b []byte) int64 {
		return int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16 | int64(b[3])<<24
	}
	start, size := le(e[8:])*sector, le(e[12:])*sector
	if e[4] == 0 || start+size > int64(len(medium)) || !bytes.HasPrefix(medium[start:], []byte("\xeb\x58\x90FAT")) {
		return nil
	}
	return medium[start : start+size]
}

func bootOf(image []byte, l layout) []byte { return image[l.bootStart : l.bootStart+l.bootSize] }

// used gives an image without what is free of it, and what the order's place has.
func used(image []byte, l *reimage.List) []byte {
	image = bytes.Clone(image[:l.Size])
	for i := range l.Len() {
		if at, n := l.Span(i); l.Free(i) {
			clear(image[at:][:n])
		}
	}
	clear(image[reimage.OrderPlace:][:reimage.OrderSize+sector])
	return image
}

// cuts are what is needed to cut the power of a card that is written, and to see what comes of
// it.
type cuts struct {
	old, new   layout
	alike      bool   // the images, but for a few pieces
	image      []byte // the new one
	controller *fakeController
	fresh      []byte // the card, armed
	steps      int    // writes and syncs until it is whole
	rescued    int    // starts over USB
}

// newCuts makes images of a size, and writes a card once, without a cut.
func newCuts(t *testing.T, size int64, old, new layout, alike bool, free ...int) *cuts {
	t.Helper()
	before := makeImage(1, size, old)
	c := &cuts{old: old, new: new, alike: alike, image: makeImage(2, size, new)}
	if alike {
		copy(c.image[sector:], before[sector:])
		for _, at := range []int64{old.bootStart + 400*kib, old.bootStart + 100*kib, 3 * mib, size - 1} {
			c.image[at] ^= 1
		}
	}
	if len(bytes.Trim(c.image[mib:mib+128*kib], "\x00")) > 0 {
		t.Fatal("the order's place is not free")
	}
	c.controller = newController(c.image, new.bootStart, new.bootSize, free...)
	card := newCard(armed(t, before, size+mib))
	c.fresh = bytes.Clone(card.medium)
	if err := reimager.Run(t.Context(), card, order(), c.controller, quick()); err != nil {
		t.Fatal(err)
	}
	whole(t, card, c.controller, c.image)
	c.steps = card.writes
	return c
}

// from cuts the power at a write or sync, then at as many others as they come, and starts
// whatever the card has then for a boot ROM to find. It ends in the new image, whole.
func (c *cuts) from(t *testing.T, first int, others int, random *rand.Rand) {
	t.Helper()
	want := used(c.image, c.controller.list)
	medium, left, counted := bytes.Clone(c.fresh), first, 0
	for boots := 1; ; boots++ {
		found := rom(medium)
		isNew := bytes.Equal(used(medium, c.controller.list), want)
		old := bootOf(c.fresh, c.old)
		switch {
		case found == nil:
			c.rescued++ // over USB, with the same program, which finds the order on the card
		case isNew:
			// An order that is still there says nothing that would not be so.
		case !c.alike && bytes.Equal(found, bootOf(c.image, c.new)):
			t.Fatal("the new boot partition is there before all else is")
		// The table may have the new one's length already: the firmware goes by what is in
		// the partition.
		case !bytes.Equal(found[:min(len(found), len(old))], old[:min(len(found), len(old))]):
			t.Fatal("a boot partition that is neither the old one nor the new one")
		}
		o, err := reimage.ReadOrder(newCard(medium))
		if errors.Is(err, reimage.ErrNoOrder) {
			if !isNew {
				t.Fatal("the order has gone before the card is whole")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if o.Attempt < counted || o.Attempt > boots-1 {
			t.Fatalf("start %d finds attempt %d after %d", boots, o.Attempt, counted)
		}
		counted = o.Attempt
		card := newCard(medium)
		card.random, card.left = random, left
		ctx, cancel := context.WithCancel(t.Context())
		options := quick()
		options.Pause = func(int) time.Duration {
			if card.cut {
				cancel()
			}
			return 0
		}
		err = reimager.Run(ctx, card, o, c.controller, options)
		cancel()
		if err == nil {
			whole(t, card, c.controller, c.image)
			return
		}
		if !card.cut {
			t.Fatal(err)
		}
		medium = card.medium
		if left = -1; boots <= others {
			left = random.IntN(c.steps)
		}
	}
}

// TestCuts cuts the power at every write and every sync, alone and with others after it.
func TestCuts(t *testing.T) {
	for _, test := range []struct {
		summary  string
		old, new layout
		free     []int
		alike    bool // but for a few pieces
	}{
		{"another image", usual, usual, []int{1, 7, 8, 20, 30}, false},
		{"a few pieces of the boot partition and of the root", usual, usual, []int{8}, true},
		{"the boot partition has grown", usual, layout{usual.bootStart, mib, 0x0c}, []int{8}, false},
		{"the boot partition has shrunk", layout{usual.bootStart, mib, 0x0c}, usual, []int{8}, false},
		{"the boot partition has moved", usual, layout{5 * mib / 2, 512 * kib, 0x0c}, []int{8}, false},
		{"the boot partition has moved by a little", usual, layout{usual.bootStart + 16*kib, usual.bootSize, 0x0e}, []int{8}, false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c := newCuts(t, full, test.old, test.new, test.alike, test.free...)
			every := 1
			if testing.Short() {
				every = max(1, c.steps/8)
			}
			for first := 0; first < c.steps; first += every {
				for _, others := range []int{0, 4} {
					c.from(t, first, others, rand.New(rand.NewPCG(uint64(first), uint64(others))))
					if t.Failed() {
						t.Fatalf("cut %d, and %d others", first, others)
					}
				}
			}
			if c.rescued == 0 {
				t.Error("no cut has left a card that nothing starts from: the boot partition was not written")
			}
			t.Logf("%d writes and syncs, %d starts over USB", c.steps, c.rescued)
		})
	}
}

// TestCutsOfMore cuts the power of a larger image's writing wherever it happens to, a few
// times each; twenty with HATCHERY_SOAK=1, which are others each time.
func TestCutsOfMore(t *testing.T) {
	if testing.Short() {
		t.Skip("a larger image")
	}
	seed, points, size := uint64(1), 2, int64(24*mib)
	if os.Getenv("HATCHERY_SOAK") != "" {
		seed, points, size = rand.Uint64(), 20, 160*mib
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	large := layout{4 * mib, size / 4, 0x0c}
	c := newCuts(t, size, usual, large, false, 8, 9, 10)
	for range points {
		first := random.IntN(c.steps)
		c.from(t, first, 1+random.IntN(6), random)
		if t.Failed() {
			t.Fatalf("cut %d of %d", first, c.steps)
		}
	}
	t.Logf("%d writes and syncs, %d starts over USB", c.steps, c.rescued)
}

// whole sees that a card has the image, and nothing of the order.
func whole(t *testing.T, card *fakeCard, controller *fakeController, image []byte) {
	t.Helper()
	if len(card.cache) > 0 {
		t.Error("what was written is not on the medium")
	}
	if have, want := used(card.medium, controller.list), used(image, controller.list); !bytes.Equal(have, want) {
		for i := range have {
			if have[i] != want[i] {
				t.Fatalf("the card differs from the image at byte %d (%d): %x, want %x", i, i/piece, have[i], want[i])
			}
		}
	}
	if len(bytes.Trim(card.medium[reimage.OrderPlace:][:reimage.OrderSize+sector], "\x00")) > 0 {
		t.Error("something is left of the order")
	}
	controller.mu.Lock()
	defer controller.mu.Unlock()
	if n := len(controller.told); n == 0 || controller.told[n-1].State != reimage.Done {
		t.Errorf("the controller was told last %+v", controller.told)
	}
}

// TestUsed: what is free on the image stays on the card, what is alike is not fetched.
func TestUsed(t *testing.T) {
	old := makeImage(1, full, usual)
	image := bytes.Clone(old)
	for _, at := range []int64{9 * mib / 4, 3 * mib, 7 * mib / 2} {
		image[at] ^= 1
	}
	controller := newController(image, usual.bootStart, usual.bootSize, 8, 3*mib/piece)
	card := newCard(armed(t, old, full))
	if err := reimager.Run(t.Context(), card, order(), controller, quick()); err != nil {
		t.Fatal(err)
	}
	image[3*mib] ^= 1
	if !bytes.Equal(card.medium, image) {
		t.Error("the card is another one")
	}
	if controller.pieces != 2 {
		t.Errorf("%d pieces were fetched", controller.pieces)
	}
}

// TestTrouble: what goes wrong once is done again, and what was done stays done.
func TestTrouble(t *testing.T) {
	type world struct {
		card       *fakeCard
		controller *fakeController
		options    reimager.Options
	}
	times := func(n int, name string, err error) func(string) error {
		return func(call string) error {
			if call == name && n > 0 {
				n--
				return err
			}
			return nil
		}
	}
	broken := errors.New("the link is gone")
	for _, test := range []struct {
		summary string
		set     func(*world)
		told    string // among what the controller is told of failures
	}{
		{"nobody answers at first", func(w *world) { w.controller.fail = times(3, "image", broken) }, ""},
		{"the list does not come", func(w *world) { w.controller.fail = times(1, "list", broken) }, ""},
		{"the link goes", func(w *world) { w.controller.fail = times(2, "pieces", broken) }, "the link is gone"},
		{"another image came in between", func(w *world) { w.controller.fail = times(1, "pieces", reimager.ErrChanged) }, ""},
		{"a piece comes damaged", func(w *world) { w.controller.spoil = 30 }, "piece 30 of the image came with another content"},
		{"a piece of the boot partition comes damaged", func(w *world) { w.controller.spoil = 12 }, "piece 12 of the image came with another content"},
		{"the card loses a write", func(w *world) { w.card.losing[3*mib/sector] = 2 }, ""},
		{"the card loses a write again and again", func(w *world) { w.card.losing[3*mib/sector] = 4 }, "does not keep"},
		{"the card loses a write of the boot partition", func(w *world) { w.card.losing[usual.bootStart/sector+9] = 2 }, ""},
		{"the controller does not listen", func(w *world) { w.controller.fail = times(4, "tell writing", broken) }, ""},
		{"the controller hears late that it is done", func(w *world) { w.controller.fail = times(2, "tell done", broken) }, ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			image := makeImage(2, full, usual)
			w := &world{newCard(armed(t, makeImage(1, full, usual), full)), newController(image, usual.bootStart, usual.bootSize, 8), quick()}
			test.set(w)
			if err := reimager.Run(t.Context(), w.card, order(), w.controller, w.options); err != nil {
				t.Fatal(err)
			}
			whole(t, w.card, w.controller, image)
			said := ""
			for _, p := range w.controller.told {
				if p.State == reimage.Failed {
					said += p.Detail + "\n"
				}
				if p.Attempt != 1 {
					t.Errorf("it is attempt 1, and the controller was told %d", p.Attempt)
				}
			}
			if test.told == "" && said != "" || !strings.Contains(said, test.told) {
				t.Errorf("the controller was told %q, want %q", said, test.told)
			}
		})
	}
}

// TestUntouched: where nothing is to be written the card's own system is started, but
// not if it is half-written.
func TestUntouched(t *testing.T) {
	broken := errors.New("the link is gone")
	for _, test := range []struct {
		summary string
		set     func(*fakeController, *reimager.Options)
		size    int64
		layout  layout
		want    string
	}{
		{"nothing is to be written", func(c *fakeController, _ *reimager.Options) { c.gone = true }, full, usual, "nothing is to be written"},
		{"the controller is away for long", func(c *fakeController, o *reimager.Options) {
			c.fail = func(string) error { return broken }
			o.Patience = time.Millisecond
		}, full, usual, "the link is gone"},
		{"a card that is too small", func(*fakeController, *reimager.Options) {}, full - sector, usual, "put in a larger card"},
		{"a boot partition that is too large for the memory", func(_ *fakeController, o *reimager.Options) { o.Memory = 256 * kib }, full, usual, "fit into this node's memory"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			controller := newController(makeImage(2, full, test.layout), test.layout.bootStart, test.layout.bootSize, 8)
			options := quick()
			test.set(controller, &options)
			medium := armed(t, makeImage(1, full, usual)[:test.size], test.size)
			before := bytes.Clone(medium)
			err := reimager.Run(t.Context(), newCard(medium), order(), controller, options)
			var untouched *reimager.UntouchedError
			if !errors.As(err, &untouched) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, want %q", err, test.want)
			}
			for _, m := range [][]byte{before, medium} {
				clear(m[reimage.OrderPlace:][:reimage.OrderSize])
			}
			if !bytes.Equal(before, medium) {
				t.Error("the card was written to")
			}
		})
	}

	t.Run("half-written", func(t *testing.T) {
		image := makeImage(2, full, usual)
		controller := newController(image, usual.bootStart, usual.bootSize, 8)
		card := newCard(armed(t, makeImage(1, full, usual), full))
		ctx, cancel := context.WithCancel(t.Context())
		card.left = 12
		options := quick()
		options.Pause = func(int) time.Duration { cancel(); return time.Hour }
		if err := reimager.Run(ctx, card, order(), controller, options); !errors.Is(err, context.Canceled) || !card.cut {
			t.Fatal(err)
		}
		card = newCard(card.medium)
		if touched, err := reimager.Touched(card, "test"); err != nil || !touched {
			t.Fatalf("touched: %v, %v", touched, err)
		}
		if touched, err := reimager.Touched(card, "another"); err != nil || touched {
			t.Fatalf("touched by another operation: %v, %v", touched, err)
		}
		controller.gone = true
		tries := 0
		options.Patience = time.Nanosecond
		options.Pause = func(int) time.Duration {
			if tries++; tries == 3 {
				controller.gone = false
			}
			return time.Millisecond
		}
		if err := reimager.Run(t.Context(), card, order(), controller, options); err != nil {
			t.Fatal(err)
		}
		whole(t, card, controller, image)
		if !controller.begun {
			t.Error("the controller was not told that the card is begun")
		}
	})
}

// TestFault: the controller is told where it is the card that fails, also where nobody can
// tell any more whether it was begun.
func TestFault(t *testing.T) {
	for _, test := range []struct {
		summary string
		set     func(*fakeCard, *fakeController)
		fault   string
		detail  string
	}{
		{"a sector that cannot be read", func(c *fakeCard, _ *fakeController) { c.unread[3*mib/sector] = true }, reimage.FaultCard, "cannot be read at byte 3145728"},
		{"the mark cannot be read", func(c *fakeCard, _ *fakeController) { c.unread[(reimage.OrderPlace+reimage.OrderSize)/sector] = true }, "", ""},
		{"a sector of the table", func(c *fakeCard, _ *fakeController) { c.unread[0] = true }, reimage.FaultCard, "cannot be read at byte 0"},
		{"writes are lost", func(c *fakeCard, _ *fakeController) { c.losing[3*mib/sector] = 1 << 20 }, reimage.FaultCard, "does not keep"},
		{"writes of the boot partition are lost", func(c *fakeCard, _ *fakeController) { c.losing[usual.bootStart/sector+9] = 1 << 20 }, reimage.FaultCard, "does not keep"},
		{"the link goes", func(_ *fakeCard, c *fakeController) {
			c.fail = func(call string) error {
				if call == "pieces" {
					return errors.New("the link is gone")
				}
				return nil
			}
		}, "", "the link is gone"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			image := makeImage(2, full, usual)
			card, controller := newCard(armed(t, makeImage(1, full, usual), full)), newController(image, usual.bootStart, usual.bootSize, 8)
			test.set(card, controller)
			ctx, cancel := context.WithCancel(t.Context())
			options := quick()
			options.Pause = func(try int) time.Duration {
				if try == 3 {
					cancel()
				}
				return time.Millisecond
			}
			err := reimager.Run(ctx, card, order(), controller, options)
			cancel()
			if test.detail == "" {
				// It is written, as one that may be begun: nothing of it is started.
				if err != nil || !controller.begun {
					t.Fatalf("%v, begun: %v", err, controller.begun)
				}
				return
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			failures := 0
			for _, p := range controller.told {
				if p.State != reimage.Failed {
					continue
				}
				if failures++; p.Fault != test.fault || !strings.Contains(p.Detail, test.detail) {
					t.Errorf("the controller was told %+v", p)
				}
			}
			if failures < 3 {
				t.Errorf("the controller was told %d times", failures)
			}
		})
	}
}

// TestResumed: a link that comes and goes has nothing fetched twice.
func TestResumed(t *testing.T) {
	image := makeImage(2, 40*mib, usual)
	controller := newController(image, usual.bootStart, usual.bootSize, 8)
	calls := 0
	controller.fail = func(call string) error {
		if call != "pieces" {
			return nil
		}
		if calls++; calls%2 == 1 {
			return fmt.Errorf("the link is gone")
		}
		return nil
	}
	card := newCard(armed(t, makeImage(1, 40*mib, usual), 40*mib))
	if err := reimager.Run(t.Context(), card, order(), controller, quick()); err != nil {
		t.Fatal(err)
	}
	whole(t, card, controller, image)
	if limit := controller.list.Len(); controller.pieces > limit {
		t.Errorf("%d pieces were fetched of %d", controller.pieces, limit)
	}
}

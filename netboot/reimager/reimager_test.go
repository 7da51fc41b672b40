package reimager_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
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

// TestCuts cuts the power at every write, several times over, and starts whatever the
// card then has for a boot ROM to find. It ends in the new image, whole, always.
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
			old, image := makeImage(1, full, test.old), makeImage(2, full, test.new)
			if test.alike {
				copy(image[sector:], old[sector:])
				for _, at := range []int64{usual.bootStart + 400*kib, usual.bootStart + 100*kib, 3 * mib, full - 1} {
					image[at] ^= 1
				}
			}
			if at := slices.Index(image[mib:mib+64*kib], 1); at >= 0 {
				t.Fatal("the order's place is not free")
			}
			controller := newController(image, test.new.bootStart, test.new.bootSize, test.free...)
			card := newCard(armed(t, old, full+mib))
			fresh := bytes.Clone(card.medium)
			if err := reimager.Run(t.Context(), card, order(), controller, quick()); err != nil {
				t.Fatal(err)
			}
			whole(t, card, controller, image)
			steps := card.writes
			every := max(1, steps/25)
			switch {
			case os.Getenv("HATCHERY_SOAK") != "":
				every = 1
			case testing.Short():
				every = max(1, steps/8)
			}
			rescued := 0
			for first := 0; first < steps; first += every {
				for round := range uint64(2) {
					random := rand.New(rand.NewPCG(uint64(first), round))
					medium := bytes.Clone(fresh)
					cuts, counted := first, 0
					for boots := 1; ; boots++ {
						found := rom(medium)
						switch {
						case found == nil:
							rescued++ // over USB, with the same program
						case bytes.Equal(found, bootOf(image, test.new)) && !test.alike,
							bytes.Equal(used(medium, controller.list), used(image, controller.list)):
							// The new system: it is whole. An order that is still there says
							// nothing that would not be so.
							if !bytes.Equal(used(medium, controller.list), used(image, controller.list)) {
								t.Fatalf("cut %d.%d: the new boot partition is there before all else is", first, round)
							}
						// The table may have the new one's length already: the firmware goes by
						// what is in the partition.
						case !bytes.Equal(found[:min(int64(len(found)), test.old.bootSize)], bootOf(fresh, test.old)[:min(int64(len(found)), test.old.bootSize)]):
							t.Fatalf("cut %d.%d: a boot partition that is neither the old one nor the new one", first, round)
						}
						o, err := reimage.ReadOrder(newCard(medium))
						if errors.Is(err, reimage.ErrNoOrder) {
							if !bytes.Equal(used(medium, controller.list), used(image, controller.list)) {
								t.Fatalf("cut %d.%d: the order has gone before the card is whole", first, round)
							}
							break
						}
						if err != nil {
							t.Fatal(err)
						}
						if o.Attempt < counted || o.Attempt > boots-1 {
							t.Fatalf("cut %d.%d: start %d finds attempt %d after %d", first, round, boots, o.Attempt, counted)
						}
						counted = o.Attempt
						card := newCard(medium)
						card.random, card.left = random, cuts
						ctx, cancel := context.WithCancel(t.Context())
						options := quick()
						options.Pause = func(int) time.Duration {
							if card.cut {
								cancel()
							}
							return 0
						}
						err = reimager.Run(ctx, card, o, controller, options)
						cancel()
						if err == nil {
							whole(t, card, controller, image)
							break
						}
						if !card.cut {
							t.Fatalf("cut %d.%d: %v", first, round, err)
						}
						medium = card.medium
						// Round 0 has one cut; the other has them as they come.
						if cuts = -1; round > 0 && boots < 5 {
							cuts = random.IntN(steps)
						}
					}
				}
			}
			t.Logf("%d writes and syncs, %d starts over USB", steps, rescued)
		})
	}
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

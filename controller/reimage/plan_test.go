package reimage_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"hatchery/controller/reimage"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/imagetest"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/store"
)

// TestPlanBytes says what differs, once the lists of both are known.
func TestPlanBytes(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	c := bytes.Clone(w.images["A"])
	copy(c[bootStart+7000:], "what is new in C")
	copy(c[rootStart+5000:], "and also this")
	copy(c[imageSize-4:], "end") // the last piece is short
	w.addRoot("C", c)
	plan := func(want int64) {
		t.Helper()
		p, err := w.s.Plan(ctx, slot)
		if err != nil || p.Bytes != want {
			t.Errorf("%+v, %v, want %d bytes", p, err, want)
		}
	}
	w.assign("B")
	plan(0) // nobody knows what the card holds
	succeed(t, w.store.Carded(ctx, w.roots["A"]))
	plan(wire.Piece)
	w.assign("C")
	plan(2*wire.Piece + imageSize%wire.Piece)
	w.assign("A")
	plan(0)
	if w.s.OpenImages() != 0 {
		t.Error("images are left open")
	}
}

// identified adds an image with a slot's certificate in its root, of a generation.
func (w *world) identified(name string, of, generation int) {
	w.t.Helper()
	for {
		files := w.cluster.Files(w.t, of)
		id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
		succeed(w.t, err)
		if id.Peer.Generation == generation {
			path := imagetest.Bookworm(w.t, imagetest.WithFile(enrol.IdentityDir+"/certificate.pem", string(files.Certificate), 0o600, 0, 0))
			f, err := os.Open(path)
			succeed(w.t, err)
			base, err := w.store.AddBase(context.Background(), f, store.Import{Name: name})
			succeed(w.t, err)
			succeed(w.t, f.Close())
			w.roots[name] = store.Root{Base: base, Slot: slot}
			return
		}
		_, err = w.cluster.Store.Renew(clusterctrl.SlotName(of), of, "host"+clusterctrl.SlotName(of))
		succeed(w.t, err)
	}
}

// TestGeneration: what has a certificate that the controller refuses is not written.
func TestGeneration(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.identified("old", slot, 1)
	w.identified("new", slot, 2)
	w.identified("p3", 3, 1)

	w.assign("old")
	if p, err := w.s.Plan(ctx, slot); err != nil || p.Generation != 1 || p.PreviousGeneration != 0 || w.s.Check(ctx, slot) != nil {
		t.Fatalf("%+v, %v, %v", p, err, w.s.Check(ctx, slot))
	}
	succeed(t, w.store.Carded(ctx, w.roots["old"]))
	// A card of the next generation was flashed by hand.
	w.least = 2
	for summary, err := range map[string]error{"check": w.s.Check(ctx, slot), "rebuild": w.s.Reimage(ctx, slot, nil)} {
		if !errors.Is(err, reimage.ErrOld) || !strings.Contains(err.Error(), "push it first") {
			t.Errorf("%s: %v", summary, err)
		}
	}
	w.assign("new")
	if p, err := w.s.Plan(ctx, slot); err != nil || p.Generation != 2 || w.s.Check(ctx, slot) != nil {
		t.Errorf("%+v, %v, %v", p, err, w.s.Check(ctx, slot))
	}
	succeed(t, w.store.Carded(ctx, w.roots["new"]))
	if p, err := w.s.Plan(ctx, slot); err != nil || p.PreviousGeneration != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, to := range []string{"", w.root("old").Digest().String()} {
		if err := w.s.UndoTo(ctx, slot, to, nil); !errors.Is(err, reimage.ErrOld) {
			t.Errorf("back to %q: %v", to, err)
		}
	}
	if w.s.View(slot) != nil || w.agent.armed != 0 || w.state() != "new+ before old" {
		t.Errorf("something was begun: %v, %s", w.s.View(slot), w.state())
	}
	// What this controller's own image says is heard of, too.
	w.least, w.known = 0, 3
	w.restart()
	if err := w.s.Check(ctx, slot); !errors.Is(err, reimage.ErrOld) {
		t.Errorf("%v", err)
	}
	w.assign("p3")
	if err := w.s.Check(ctx, slot); err == nil || !strings.Contains(err.Error(), "the image of p3") {
		t.Errorf("another slot's image: %v", err)
	}
	if err := w.s.Reimage(ctx, slot, nil); err == nil || w.s.View(slot) != nil {
		t.Errorf("another slot's image is written: %v", err)
	}
}

// TestUnfinished follows a card through its phases, and a restart.
func TestUnfinished(t *testing.T) {
	w := newWorld(t)
	w.assign("B")
	for _, phase := range []string{reimage.Armed, reimage.Asked, reimage.Writing, reimage.Done} {
		card := noise()
		w.begin(card, phase)
		for range 2 {
			if got := w.s.Unfinished(slot); got != (phase == reimage.Writing) || w.s.Unfinished(3) {
				t.Errorf("%s: unfinished: %v", phase, got)
			}
			w.restart()
		}
		if phase == reimage.Armed || phase == reimage.Asked {
			succeed(t, w.s.Cancel(context.Background(), slot))
			continue
		}
		w.through(card, nextBoot)
		eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
		if w.s.Unfinished(slot) {
			t.Errorf("%s: it is whole, and unfinished", phase)
		}
	}
	// A node that says that its card is begun, of which nothing was known.
	if _, err := w.wanted("?begun=1"); err != nil || !w.s.Unfinished(slot) {
		t.Errorf("%v, %v", err, w.s.View(slot))
	}
}

// TestRewrites is whether a root that starts from a card stays.
func TestRewrites(t *testing.T) {
	w := newWorld(t)
	w.assign("B")
	if w.s.Rewrites(slot) {
		t.Error("nothing is written, and it does not stay")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := w.reimage(ctx)
	w.armed()
	image, err := w.wanted("")
	succeed(t, err)
	if w.s.Rewrites(slot) {
		t.Error("it is not begun, and does not stay")
	}
	card := noise()
	w.writeCard(card, image)
	if !w.s.Rewrites(slot) || w.s.Rewrites(3) {
		t.Error("it is begun, and stays; or another slot's does not")
	}
	// Its power goes behind the last sector: it starts from its card, and is armed again.
	w.s.Heard(slot, nextBoot)
	w.armed()
	if !w.s.Rewrites(slot) {
		t.Error("it was armed again, and stays")
	}
	// The service ends: whoever goes on with it comes back soon, or not at all.
	cancel()
	await(t, "the end", done)
	w.restart()
	if !w.s.Rewrites(slot) {
		t.Error("a service that began a moment ago lets it stay")
	}
	w.times.Left = time.Nanosecond
	w.restart()
	if w.s.Rewrites(slot) {
		t.Error("nobody goes on with it, and it does not stay")
	}
	done = w.goOn(context.Background())
	eventually(t, "somebody at work", func() bool { return w.s.Rewrites(slot) })
	w.written(card)
	if w.s.Rewrites(slot) {
		t.Error("its card is whole, and it does not stay")
	}
	w.s.Heard(slot, thirdBoot)
	succeed(t, await(t, "the end", done))
}

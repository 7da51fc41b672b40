package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"hatchery/netboot/store"
)

// TestCards tells what becomes of a slot that has a card.
func TestCards(t *testing.T) {
	objects := chains(t)
	ctx := context.Background()
	s, _ := newStore(t)
	w := &world{s: s, slot: 2, roots: map[string]store.Root{}}
	for name, o := range objects {
		if err := add(s, o); err != nil {
			t.Fatal(err)
		}
		w.roots[name] = rootOf(o)
	}
	if _, err := s.Wanted(w.slot); !errors.Is(err, store.ErrNoRoot) {
		t.Errorf("nothing was assigned: %v", err)
	}
	carded := func(name string) error {
		r := w.roots[name]
		r.Slot = w.slot
		return s.Carded(ctx, r)
	}
	for _, step := range []struct {
		summary string
		do      func() error
		state   string
		wanted  string
	}{
		{"pushed", func() error { return w.do("assign A") }, "nothing next A", "A"},
		{"written", func() error { return carded("A") }, "A0+", "A"},
		{"written again", func() error { return carded("A") }, "A0+", "A"},
		{"pushed another", func() error { return w.do("assign B") }, "A0+ next B", "B"},
		{"the old one written once more", func() error { return carded("A") }, "A0+ next B", "B"},
		{"taken back", func() error { return s.Unassign(ctx, w.slot) }, "A0+", "A"},
		{"taken back twice", func() error { return s.Unassign(ctx, w.slot) }, "A0+", "A"},
		{"pushed it again", func() error { return w.do("assign B") }, "A0+ next B", "B"},
		{"written with that", func() error { return carded("B") }, "B0+ before A0+", "B"},
		{"written as before", func() error { return carded("A") }, "A0+ before B0+", "A"},
		{"pushed a third", func() error { return w.do("assign C") }, "A0+ next C before B0+", "C"},
		{"written with another than that", func() error { return carded("B") }, "B0+ next C before A0+", "C"},
		// Nothing of it is lost.
		{"collected", func() error { return w.do("collect") }, "B0+ next C before A0+", "C"},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.summary, err)
		}
		if got := w.describe(); got != step.state {
			t.Errorf("%s: %s, want %s", step.summary, got, step.state)
		}
		if r, err := s.Wanted(w.slot); err != nil || w.name(r) != step.wanted {
			t.Errorf("%s: it is to have %v, %v", step.summary, r, err)
		}
	}
	if err := w.do("mode netboot"); err != nil {
		t.Fatal(err)
	}
	if err := carded("A"); !errors.Is(err, store.ErrNetboots) {
		t.Errorf("a slot without a card has one: %v", err)
	}
	// What a card got is what a node without one boots.
	if err := w.do("boot"); err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, w.disk.Size())
	if _, err := w.disk.ReadAt(disk, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	root := w.roots["C"]
	root.Slot = w.slot
	image, err := s.Image(root)
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, image.Size())
	if _, err := image.ReadAt(content, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if !bytes.Equal(content, disk) || image.Chain().Digest() != root.Digest() {
		t.Error("the image is not what the slot boots")
	}
	if err := image.Close(); err != nil {
		t.Error(err)
	}
	if err := w.do("off"); err != nil {
		t.Fatal(err)
	}
	if n := s.OpenParts(); n != 0 {
		t.Errorf("%d parts are open", n)
	}
}

// TestImageOfNothing is a root whose objects are not there.
func TestImageOfNothing(t *testing.T) {
	s, _ := newStore(t)
	r := rootOf(chains(t)["A"])
	r.Slot = 2
	if _, err := s.Image(r); !errors.Is(err, store.ErrMissing) {
		t.Errorf("%v", err)
	}
	if n := s.OpenParts(); n != 0 {
		t.Errorf("%d parts are open", n)
	}
}

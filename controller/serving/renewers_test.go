package serving

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hatchery/controller/operation"
	"hatchery/controller/reimage"
	"hatchery/netboot"
	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
)

// A shelf is a store with two roots for slot 2.
type shelf struct {
	*store.Store
	t        *testing.T
	old, new store.Root
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{Run: filepath.Join(dir, "run"), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	sh := &shelf{Store: s, t: t}
	for i, root := range []*store.Root{&sh.old, &sh.new} {
		f, err := os.Open(storetest.Base(t, 1<<20, uint64(i+1)).Path)
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.AddBase(t.Context(), f, store.Import{Name: "base"})
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		*root = store.Root{Base: d, Slot: 2}
	}
	return sh
}

func (s *shelf) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) assign(r store.Root) {
	s.t.Helper()
	_, err := s.Assign(s.t.Context(), 2, r)
	s.must(err)
}

// boots has the slot boot once, without a card, and be Ready.
func (s *shelf) boots() {
	s.t.Helper()
	s.must(s.Configure(s.t.Context(), 2, func(v *store.Settings) { v.Mode = store.Netboot }))
	disk, err := s.Boot(s.t.Context(), 2)
	s.must(err)
	s.must(s.ReadyKeeping(s.t.Context(), 2))
	s.must(disk.Close())
	s.must(s.Stopped(s.t.Context(), 2))
}

// generation is that of the certificates in the shelf's roots.
func (s *shelf) generation(r store.Root) int {
	switch {
	case r.Same(&s.old):
		return 3
	case r.Same(&s.new):
		return 4
	}
	return 0
}

// A doing takes down what is done with slots, and fails as it is told.
type doing struct {
	did      []string
	fails    error
	switches bool
	plan     *reimage.Plan
}

func (d *doing) do(format string, values ...any) error {
	d.did = append(d.did, fmt.Sprintf(format, values...))
	return d.fails
}

func (d *doing) Switches() bool                            { return d.switches }
func (d *doing) Cycle(_ context.Context, slot int) error   { return d.do("cycle p%d", slot) }
func (d *doing) Rebuild(_ context.Context, slot int) error { return d.do("rebuild p%d", slot) }
func (d *doing) Cancel(_ context.Context, slot int) error  { return d.do("cancel p%d", slot) }
func (d *doing) Forget(slot int) error                     { return d.do("forget p%d", slot) }
func (d *doing) Check(_ context.Context, slot int) error   { return d.do("check p%d", slot) }

// undoing is going back without a card.
type undoing struct{ *doing }

func (u undoing) UndoTo(_ context.Context, slot int, to string) error {
	return u.do("undo p%d to %s", slot, to)
}

// writing is what is done with cards.
type writing struct{ *doing }

func (w writing) Plan(context.Context, int) (*reimage.Plan, error) { return w.plan, w.fails }

func (w writing) Reimage(_ context.Context, slot int, tell func(step, detail string)) error {
	tell(reimage.StepWrite, "3 MiB")
	return w.do("write p%d", slot)
}

func (w writing) UndoTo(_ context.Context, slot int, to string, tell func(step, detail string)) error {
	tell(reimage.StepWrite, "3 MiB")
	return w.do("undo p%d to %s", slot, to)
}

// TestNetbootPlan: a slot without a card is told what it has, what it gets and what it can
// go back to, with the generations of their certificates.
func TestNetbootPlan(t *testing.T) {
	s := newShelf(t)
	old, new := s.old.Digest().String(), s.new.Digest().String()
	r := &netbootRenewer{boots: undoing{&doing{}}, store: s.Store, kind: operation.Upgrade, generation: s.generation}
	same := func(summary string, want operation.Plan) {
		t.Helper()
		want.Slot, want.Name, want.Kind = 2, "p2", "netboot"
		p, err := r.Plan(t.Context(), 2)
		s.must(err)
		if len(p.Discards) != 1 {
			t.Errorf("%s: nothing is said to be lost", summary)
		}
		p.Discards = nil
		if fmt.Sprintf("%+v", p) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: %+v, want %+v", summary, p, want)
		}
	}
	same("nothing was pushed", operation.Plan{})
	s.assign(s.old)
	same("it was not booted", operation.Plan{Next: old, Generation: 3})
	s.boots()
	same("it runs", operation.Plan{Current: old, Next: old, Generation: 3})
	s.assign(s.new)
	same("another was pushed", operation.Plan{Current: old, Next: new, Generation: 4})
	s.boots()
	same("it was upgraded", operation.Plan{Current: new, Next: new, Previous: old, Generation: 4, PreviousGeneration: 3, Intact: true})
	r.generation = nil
	same("nobody can read certificates", operation.Plan{Current: new, Next: new, Previous: old, Intact: true})
}

// TestNetbootRenew: what is done with a slot without a card, as it stands.
func TestNetbootRenew(t *testing.T) {
	for _, test := range []struct {
		summary string
		kind    operation.Kind
		booted  bool
		pushed  bool // since
		did     string
	}{
		{"an upgrade", operation.Upgrade, true, true, "cycle p2"},
		{"an upgrade that was begun", operation.Upgrade, true, false, ""},
		{"an upgrade before the first boot", operation.Upgrade, false, true, "cycle p2"},
		{"a rebuild", operation.Rebuild, true, false, "rebuild p2"},
		{"a rebuild of what was pushed", operation.Rebuild, true, true, "rebuild p2"},
		{"a rebuild before the first boot", operation.Rebuild, false, true, "cycle p2"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := newShelf(t)
			if test.booted {
				s.assign(s.old)
				s.boots()
			}
			if test.pushed {
				s.assign(s.new)
			}
			d, told := &doing{}, ""
			r := &netbootRenewer{boots: undoing{d}, store: s.Store, kind: test.kind}
			s.must(r.Renew(t.Context(), 2, func(step, detail string) { told += step + detail }))
			if got := strings.Join(d.did, "; "); got != test.did || told == "" {
				t.Errorf("it did %q, and told %q", got, told)
			}
		})
	}
}

// TestNetbootCheck: what keeps a slot without a card from being renewed has its remedy.
func TestNetbootCheck(t *testing.T) {
	s, d := newShelf(t), &doing{}
	r := &netbootRenewer{boots: undoing{d}, store: s.Store, kind: operation.Rebuild}
	for _, want := range []string{"`hatchery push p2`", "`hatchery power`", ""} {
		switch err := r.Check(t.Context(), 2); {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%v, and not %q", err, want)
		}
		if want == "`hatchery power`" {
			d.switches = true
		}
		s.assign(s.old)
	}
	if err := r.Check(t.Context(), 0); err == nil {
		t.Error("there is a slot 0")
	}
}

// TestRenewersUndo: where nothing was to be written, an operation hears so; other errors
// stay what they are, and the root is the one that was named.
func TestRenewersUndo(t *testing.T) {
	odd := errors.New("odd")
	for _, test := range []struct {
		summary       string
		netboot, card error // what is there to fail with
		is            error
	}{
		{"it goes back", nil, nil, nil},
		{"it has that root", fmt.Errorf("p2: %w", netboot.ErrNothingToUndo), fmt.Errorf("p2: %w", reimage.ErrNothingWritten), operation.ErrNothingWritten},
		{"it is gone", store.ErrNoPrevious, store.ErrNoPrevious, store.ErrNoPrevious},
		{"something else", odd, odd, odd},
	} {
		without, with := &doing{fails: test.netboot}, &doing{fails: test.card}
		for _, r := range []operation.Renewer{&netbootRenewer{boots: undoing{without}, kind: operation.Undo}, cardRenewer{cards: writing{with}, kind: operation.Undo}} {
			told := 0
			err := r.Undo(t.Context(), 2, "sha256:1", func(string, string) { told++ })
			if !errors.Is(err, test.is) || test.is != operation.ErrNothingWritten && errors.Is(err, operation.ErrNothingWritten) || told == 0 {
				t.Errorf("%s of %s: %v, told %d times", test.summary, r.Kind(), err, told)
			}
		}
		if want := []string{"undo p2 to sha256:1"}; !slices.Equal(without.did, want) || !slices.Equal(with.did, want) {
			t.Errorf("%s: %q, %q", test.summary, without.did, with.did)
		}
	}
}

// TestCardRenewer: a slot with a card, by who writes it and by the store.
func TestCardRenewer(t *testing.T) {
	s := newShelf(t)
	d := &doing{plan: &reimage.Plan{Root: s.new, Bytes: 7, Generation: 4, PreviousGeneration: 2}}
	r := cardRenewer{cards: writing{d}, store: s.Store, kind: operation.Upgrade}
	p, err := r.Plan(t.Context(), 2)
	s.must(err)
	if p.Kind != "card" || p.Name != "p2" || p.Next != s.new.Digest().String() || p.Current != "" || p.Previous != "" || p.Bytes != 7 || p.Generation != 4 || p.PreviousGeneration != 2 || p.Intact {
		t.Errorf("at first: %+v", p)
	}
	s.must(s.Carded(t.Context(), s.old))
	s.must(s.Carded(t.Context(), s.new))
	d.plan.Current = &s.new
	if p, err = r.Plan(t.Context(), 2); err != nil || p.Current != s.new.Digest().String() || p.Previous != s.old.Digest().String() {
		t.Errorf("after an upgrade: %+v, %v", p, err)
	}
	s.must(r.Renew(t.Context(), 2, func(string, string) {}))
	s.must(operation.Renewer(r).(operation.Canceller).Cancel(t.Context(), 2))
	if want := []string{"write p2", "cancel p2"}; !slices.Equal(d.did, want) {
		t.Errorf("it did %q", d.did)
	}
	// What was pushed and is refused is in nobody's way who goes back.
	for _, test := range []struct {
		kind  operation.Kind
		fails error
		is    bool
	}{
		{operation.Upgrade, &reimage.OldError{Slot: 2}, true},
		{operation.Rebuild, &reimage.OldError{Slot: 2}, true},
		{operation.Undo, &reimage.OldError{Slot: 2}, false},
		{operation.Undo, store.ErrNetboots, true},
		{operation.Upgrade, nil, false},
	} {
		d.fails, r.kind = test.fails, test.kind
		if err := r.Check(t.Context(), 2); (err != nil) != test.is {
			t.Errorf("%s with %v: %v", test.kind, test.fails, err)
		}
	}
	d.fails = store.ErrNoRoot
	if _, err := r.Plan(t.Context(), 2); !errors.Is(err, store.ErrNoRoot) {
		t.Error(err)
	}
	if err := r.Cancel(t.Context(), 2); !errors.Is(err, store.ErrNoRoot) {
		t.Error(err)
	}
}

package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
)

// The model is what the package's comment says of a slot, and no more.
type modelSlot struct {
	mode              store.Mode
	current, previous *modelGeneration
	next              string
	running           store.Mode // "" where it is not
	open              bool
}

type modelGeneration struct {
	root    string
	content uint64
	made    bool
	ready   bool
}

type model struct {
	slots   map[int]*modelSlot
	objects map[digest.Digest]bool
	chains  map[string]storetest.Object
}

func (m *modelSlot) replace(g *modelGeneration) {
	if m.current != nil && (m.current.ready || m.previous == nil) {
		m.previous = m.current
	}
	m.current = g
}

func (m *model) has(letter string) bool {
	for _, o := range m.chains[letter].Chain() {
		if !m.objects[o.Digest] {
			return false
		}
	}
	return true
}

// do gives what is to be expected: nil, or what the error matches.
func (m *model) do(slot int, op string) error {
	s := m.slots[slot]
	verb, arg, _ := strings.Cut(op, " ")
	switch verb {
	case "assign":
		switch {
		case !m.has(arg):
			return store.ErrMissing
		case s.next == arg:
		case s.current != nil && s.current.root == arg:
			s.next = ""
		default:
			s.next = arg
		}
	case "boot":
		switch {
		case s.open:
			return store.ErrRunning
		case s.mode == store.Off:
			return store.ErrOff
		case s.current == nil && s.next == "":
			return store.ErrNoRoot
		}
		if s.next != "" {
			s.replace(&modelGeneration{root: s.next})
			s.next = ""
		}
		if s.mode == store.Netboot {
			s.current.made = true
		}
		s.running, s.open = s.mode, true
	case "resume":
		switch {
		case s.open:
			return store.ErrRunning
		case s.running == "":
			return store.ErrNotRunning
		}
		s.open = true
	case "close":
		s.open = false
	case "off":
		s.open, s.running = false, ""
	case "write":
		if s.running == store.Netboot {
			fmt.Sscan(arg, &s.current.content)
		}
	case "ready":
		if s.running == "" {
			return store.ErrNotRunning
		}
		s.current.ready, s.previous = true, nil
	case "reset":
		switch {
		case s.current == nil && s.next == "":
			return store.ErrNoRoot
		case s.current == nil:
		case s.running != "":
			return store.ErrRunning
		case s.current.made:
			s.replace(&modelGeneration{root: s.current.root})
		}
	case "undo":
		switch {
		case s.next != "":
			s.next = ""
		case s.previous == nil:
			return store.ErrNoPrevious
		case s.running != "":
			return store.ErrRunning
		default:
			s.current, s.previous = s.previous, s.current
		}
	case "drop":
		s.previous = nil
	case "mode":
		s.mode = store.Mode(arg)
	case "remove":
		if s.running != "" {
			return store.ErrRunning
		}
		*s = modelSlot{mode: store.Off}
	}
	return nil
}

func (m *model) describe(slot int) string {
	s := m.slots[slot]
	generation := func(g *modelGeneration) string {
		if g == nil {
			return "nothing"
		}
		return fmt.Sprintf("%s made %v ready %v", g.root, g.made, g.ready)
	}
	return fmt.Sprintf("%s: %s, next %q, before %s, running %v", s.mode, generation(s.current), s.next, generation(s.previous), s.running != "")
}

// describe tells the same of the store.
func describe(w *world) string {
	st, err := w.s.State(w.slot)
	if err != nil {
		return err.Error()
	}
	generation := func(g *store.Generation) string {
		if g == nil {
			return "nothing"
		}
		return fmt.Sprintf("%s made %v ready %v", w.name(&g.Root), g.Top != 0, g.Ready)
	}
	next := ""
	if st.Next != nil {
		next = w.name(st.Next)
	}
	running, err := w.s.Running(w.slot)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s: %s, next %q, before %s, running %v", st.Mode, generation(st.Current), next, generation(st.Previous), running)
}

// wanted gives the objects that slots refer to.
func (m *model) wanted() map[digest.Digest]bool {
	out := map[digest.Digest]bool{}
	for _, s := range m.slots {
		letters := []string{s.next}
		for _, g := range []*modelGeneration{s.current, s.previous} {
			if g != nil {
				letters = append(letters, g.root)
			}
		}
		for _, letter := range letters {
			if letter != "" {
				for _, o := range m.chains[letter].Chain() {
					out[o.Digest] = true
				}
			}
		}
	}
	return out
}

// TestModel does things to two slots at random, in a store that is opened anew
// now and then, and compares it with the model after each of them: what the
// slots boot, what they read, which files there are.
func TestModel(t *testing.T) {
	rounds, length := 12, 120
	if testing.Short() {
		rounds = 3
	}
	objects := chains(t)
	for round := range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Logf("seed %d", seed)
			walk(t, rand.New(rand.NewPCG(seed, 0)), objects, length)
		})
	}
}

func walk(t *testing.T, rnd *rand.Rand, objects map[string]storetest.Object, length int) {
	s, dir := newStore(t)
	m := &model{slots: map[int]*modelSlot{}, objects: map[digest.Digest]bool{}, chains: objects}
	worlds := map[int]*world{}
	roots := map[string]store.Root{}
	for letter, o := range objects {
		roots[letter] = rootOf(o)
	}
	for slot := 1; slot <= 2; slot++ {
		m.slots[slot] = &modelSlot{mode: store.Off}
		worlds[slot] = &world{s: s, slot: slot, roots: roots}
	}
	letters := slices.Sorted(maps.Keys(objects))
	var history []string
	for range length {
		slot := 1 + rnd.IntN(2)
		w := worlds[slot]
		letter := letters[rnd.IntN(len(letters))]
		op := []string{"boot", "boot", "boot", "resume", "close", "off", "off", "off", "ready", "ready", "reset", "undo",
			"remove", "drop", "mode netboot", "mode netboot", "mode netboot", "mode ephemeral", "mode off",
			"assign " + letter, "assign " + letter, "assign " + letter, "add", "add", "collect", "list", "reopen", "write", "write"}[rnd.IntN(29)]
		history = append(history, fmt.Sprintf("p%d %s %s", slot, op, letter))
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(history, "\n"))
		}
		switch op {
		case "add":
			if err := add(s, objects[letter]); err != nil {
				fail("%v", err)
			}
			for _, o := range objects[letter].Chain() {
				m.objects[o.Digest] = true
			}
		case "collect", "list":
			var want []string
			used := m.wanted()
			for d := range m.objects {
				if !used[d] {
					want = append(want, string(d))
					if op == "collect" {
						delete(m.objects, d)
					}
				}
			}
			garbage, err := s.Collect(context.Background(), store.CollectOptions{DryRun: op == "list"})
			if err != nil {
				fail("%v", err)
			}
			var got []string
			for _, g := range garbage {
				got = append(got, string(g.Digest))
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				fail("collected %v, want %v", got, want)
			}
		case "reopen":
			s.Close()
			var err error
			if s, err = open(dir); err != nil {
				fail("%v", err)
			}
			for slot, w := range worlds {
				// A new process: the old one's disks were closed with it.
				if w.disk != nil {
					if err := w.do("close"); err != nil {
						fail("%v", err)
					}
					m.do(slot, "close")
				}
				w.s = s
			}
		default:
			if w.disk == nil && (op == "close" || op == "write") {
				continue
			}
			if op == "write" {
				if m.slots[slot].running != store.Netboot {
					continue
				}
				op = fmt.Sprint("write ", 1+rnd.IntN(1000))
			}
			want := m.do(slot, op)
			if got := w.do(op); !errors.Is(got, want) || want == nil && got != nil {
				fail("%v, want %v", got, want)
			}
			if w.disk != nil {
				want := uint64(0)
				if m.slots[slot].running == store.Netboot {
					want = m.slots[slot].current.content
				}
				if got, err := w.read(); err != nil || got != want {
					fail("the disk holds %d, %v; want %d", got, err, want)
				}
			}
		}
		for slot, w := range worlds {
			if got, want := describe(w), m.describe(slot); got != want {
				fail("p%d: got  %s\nwant %s", slot, got, want)
			}
			tops := 0
			for _, g := range []*modelGeneration{m.slots[slot].current, m.slots[slot].previous} {
				if g != nil && g.made {
					tops++
				}
			}
			if got := strings.Fields(w.tops()); len(got) != tops {
				fail("p%d: the tops %v are there, want %d", slot, got, tops)
			}
		}
		u, err := s.Space()
		if err != nil {
			fail("%v", err)
		}
		if len(u.Objects) != len(m.objects) {
			fail("%d objects are there, want %d", len(u.Objects), len(m.objects))
		}
		used := m.wanted()
		for _, o := range u.Objects {
			if !m.objects[o.Digest] || used[o.Digest] != (len(o.Slots) > 0) {
				fail("%s is there for %v", o.Digest, o.Slots)
			}
		}
	}
	for _, w := range worlds {
		if w.disk != nil {
			w.disk.Close()
		}
	}
	if n := s.OpenParts(); n != 0 {
		t.Errorf("%d bases and layers are still open", n)
	}
}

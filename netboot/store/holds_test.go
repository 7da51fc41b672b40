package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"hatchery/netboot/store"
)

// buildOf is what the image of a root says that it is.
func buildOf(name string) string { return strings.Repeat(fmt.Sprintf("%02x", name[0]), 32) }

// TestHolds goes by what a node says that its card holds.
func TestHolds(t *testing.T) {
	objects := chains(t)
	ctx := context.Background()
	for _, test := range []struct {
		summary  string
		steps    string // roots: written, said, pushed; X was never pushed
		state    string
		wanted   string
		stranger bool
	}{
		{"nothing was pushed", "said A", "nothing", "", true},
		{"pushed, and its node says that it runs that", "pushed A, said A", "A0+", "A", false},
		{"the other way round", "said A, pushed A", "A0+", "A", false},
		{"then the first upgrade has something before it", "said A, pushed A, pushed B", "A0+ next B", "B", false},
		{"which it goes back to", "said A, pushed A, pushed B, written B, said B", "B0+ before A0+", "B", false},
		{"what the card holds was never pushed", "said A, pushed B", "nothing next B", "B", true},
		{"it is pushed after that", "said A, pushed B, pushed A", "A0+", "A", false},
		{"and the new one once more", "said A, pushed B, pushed A, pushed B", "A0+ next B", "B", false},
		{"another card, with what was pushed", "written A, pushed B, said B", "B0+ before A0+", "B", false},
		{"another card, with what it had before", "written A, written B, said A", "A0+ next B before B0+", "B", false},
		{"the same, and something else was pushed", "written A, written B, pushed C, said A", "A0+ next C before B0+", "C", false},
		{"another card, with what was never pushed", "written A, written B, said X", "B0+ before A0+", "B", true},
		{"that is written with what it is to have", "written A, said X, written A", "A0+", "A", false},
		{"its agent says nothing", "written A, said nothing", "A0+", "A", false},
		{"its agent says nothing any more", "written A, said X, said nothing", "A0+", "A", false},
		{"it boots over its link", "written A, pushed B, netboots, said B", "A0+ next B", "B", false},
		{"it does no more", "written A, pushed B, netboots, said B, off, said B", "B0+ before A0+", "B", false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s, _ := newStore(t)
			w := &world{s: s, slot: 2, roots: map[string]store.Root{}}
			for name, o := range objects {
				if err := add(s, o); err != nil {
					t.Fatal(err)
				}
				r := rootOf(o)
				r.Slot, r.Build = w.slot, buildOf(name)
				w.roots[name] = r
			}
			for step := range strings.SplitSeq(test.steps, ", ") {
				verb, name, _ := strings.Cut(step, " ")
				var err error
				switch verb {
				case "said":
					build := ""
					if name != "nothing" {
						build = buildOf(name)
					}
					err = s.Holds(ctx, w.slot, build)
				case "pushed":
					_, err = s.Assign(ctx, w.slot, w.roots[name])
				case "written":
					err = s.Carded(ctx, w.roots[name])
				case "netboots":
					err = w.do("mode netboot")
				case "off":
					err = w.do("mode off")
				}
				if err != nil {
					t.Fatalf("%s: %v", step, err)
				}
			}
			if got := w.describe(); got != test.state {
				t.Errorf("%s, want %s", got, test.state)
			}
			r, err := s.Wanted(w.slot)
			if test.wanted == "" && !errors.Is(err, store.ErrNoRoot) || test.wanted != "" && (err != nil || w.name(r) != test.wanted) {
				t.Errorf("it is to have %v, %v", r, err)
			}
			st, err := s.State(w.slot)
			if err != nil || st.Stranger() != test.stranger {
				t.Errorf("%+v, %v: want a stranger: %t", st, err, test.stranger)
			}
		})
	}
}

// TestHoldsNothingElse is what no node says.
func TestHoldsNothingElse(t *testing.T) {
	s, _ := newStore(t)
	for _, build := range []string{"A", strings.ToUpper(buildOf("\xab")), buildOf("A") + "00"} {
		if err := s.Holds(context.Background(), 2, build); err == nil {
			t.Errorf("%q was taken for a build", build)
		}
	}
}

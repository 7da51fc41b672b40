package serving

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAsked: netboot asks about cards and operations before anybody is there to answer.
func TestAsked(t *testing.T) {
	n := &netbooting{}
	begun, held := asked(&n.unfinished), asked(&n.holds)
	if begun(2) || held(2) {
		t.Error("nobody said yes")
	}
	two := func(slot int) bool { return slot == 2 }
	n.unfinished.Store(&two)
	if !begun(2) || begun(3) || held(2) {
		t.Errorf("the card of p2 is begun: %v, %v, %v", begun(2), begun(3), held(2))
	}
	var heard []int
	rescued := told(&n.rescued)
	rescued(2)
	hear := func(slot int) { heard = append(heard, slot) }
	n.rescued.Store(&hear)
	if rescued(3); len(heard) != 1 || heard[0] != 3 {
		t.Errorf("heard of %v", heard)
	}
	n.holds.Store(&two)
	if !held(2) || held(1) {
		t.Errorf("p2 is held: %v, p1 %v", held(2), held(1))
	}
}

// TestProgram: what the controller's image has for nodes is unpacked, and what it has
// not is said with the remedy.
func TestProgram(t *testing.T) {
	place := filepath.Join(t.TempDir(), "reimage-armv6.gz")
	if _, err := program(place); err == nil || !strings.Contains(err.Error(), "build it again") {
		t.Errorf("none: %v", err)
	}
	f, err := os.Create(place)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write([]byte("a program")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := program(place); err != nil || string(got) != "a program" {
		t.Errorf("%q, %v", got, err)
	}
}

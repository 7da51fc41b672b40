package serving

import (
	"testing"

	"hatchery/internal/enrol"
)

// TestLeastGenerations: who writes cards knows what the view last had.
func TestLeastGenerations(t *testing.T) {
	s := new(operating)
	if n := s.least.of(2); n != 0 {
		t.Errorf("before any view it is %d", n)
	}
	for _, least := range []int{3, 4} {
		s.beside(&enrol.SlotView{Slot: 2, MinGeneration: least})
		s.beside(&enrol.SlotView{Slot: 1, MinGeneration: 1})
		if n := s.least.of(2); n != least {
			t.Errorf("it is %d, and the view has %d", n, least)
		}
	}
}

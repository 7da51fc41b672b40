package serving

import (
	"sync"

	"hatchery/internal/enrol"
)

// generations are the least of slots' certificates that are let in, as the controller's
// view last had them: whoever writes cards asks with a lock held, and must not wait for the
// view. Operations look at the slot's view before they ask.
type generations struct {
	mu    sync.Mutex
	least map[int]int
}

// saw takes what a view has of a slot.
func (g *generations) saw(v *enrol.SlotView) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.least == nil {
		g.least = map[int]int{}
	}
	g.least[v.Slot] = v.MinGeneration
}

// of gives a slot's least one; 0 where there was no view yet.
func (g *generations) of(slot int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.least[slot]
}

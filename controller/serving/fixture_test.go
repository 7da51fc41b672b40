package serving

import (
	"context"
	"sync"

	"hatchery/controller/hat"
	"hatchery/internal/clusterctrl"
)

// A board is a HAT that remembers.
type board struct {
	mu  sync.Mutex
	on  map[int]bool
	cut bool // some power was cut
}

func (*board) Start(context.Context) error       { return nil }
func (*board) Fresh() bool                       { return false }
func (*board) Hub(context.Context, bool) error   { return nil }
func (*board) Alert(context.Context, bool) error { return nil }

func (b *board) turn(n int, on bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = b.cut || b.on[n] && !on
	b.on[n] = on
	return nil
}

func (b *board) On(_ context.Context, n int) error  { return b.turn(n, true) }
func (b *board) Off(_ context.Context, n int) error { return b.turn(n, false) }

func (b *board) Powered(_ context.Context, n int) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.on[n], nil
}

func (b *board) Status(context.Context) (hat.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := hat.Status{Version: "2.6", Slots: map[string]bool{}}
	for n := 1; n <= hat.Slots; n++ {
		s.Slots[clusterctrl.SlotName(n)] = b.on[n]
	}
	return s, nil
}

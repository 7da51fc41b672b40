package slots

import (
	"context"
	"slices"
	"sync"
	"time"
)

// watch is somebody who follows the board.
type watch struct {
	mu    sync.Mutex
	dirty map[int]bool
	more  chan struct{}
}

func (w *watch) changed(n int) {
	w.mu.Lock()
	w.dirty[n] = true
	w.mu.Unlock()
	poke(w.more)
}

// take are the slots that changed since the last time, in order.
func (w *watch) take() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var numbers []int
	for n := range w.dirty {
		numbers = append(numbers, n)
	}
	clear(w.dirty)
	slices.Sort(numbers)
	return numbers
}

// Watch is every slot's status now, and then that of each slot that changes,
// until ctx ends; then it is closed. Those who read slowly get only the last of
// several changes; what they missed is among the Events. Each slot is told
// at most ten times a second.
func (b *Board) Watch(ctx context.Context) <-chan Status {
	w := &watch{dirty: make(map[int]bool), more: make(chan struct{}, 1)}
	for _, n := range b.numbers {
		w.dirty[n] = true
	}
	poke(w.more)
	b.mu.Lock()
	b.watches[w] = struct{}{}
	b.mu.Unlock()
	out := make(chan Status)
	go func() {
		defer close(out)
		defer func() {
			b.mu.Lock()
			delete(b.watches, w)
			b.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.more:
			}
			for _, n := range w.take() {
				st, _ := b.Status(n)
				select {
				case <-ctx.Done():
					return
				case out <- st:
				}
			}
			pause := time.NewTimer(100 * time.Millisecond)
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-pause.C:
			}
		}
	}()
	return out
}

package disk

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestGroup has many wait for flushes of a card that takes its time: they share them,
// and nobody is told of one that had begun before.
func TestGroup(t *testing.T) {
	const callers, times = 32, 10
	var g group
	var begun, ended atomic.Int64
	flush := func() error {
		n := begun.Add(1)
		time.Sleep(5 * time.Millisecond)
		ended.Store(n)
		return nil
	}
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range times {
				before := begun.Load()
				if err := g.do(flush); err != nil {
					t.Error(err)
				}
				if ended.Load() <= before {
					t.Error("told that it is flushed by a flush that had begun before")
				}
			}
		})
	}
	all.Wait()
	if n := begun.Load(); n < times || n > callers*times/2 {
		t.Errorf("%d flushes were %d", callers*times, n)
	}
}

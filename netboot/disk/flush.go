package disk

import (
	"errors"
	"os"
	"sync"
	"time"
)

// A group lets everybody who waits for a flush share the next one.
type group struct {
	working sync.Mutex // held by whoever flushes
	mu      sync.Mutex
	waiting *flush // will begin when the one under way is done
}

type flush struct {
	done chan struct{}
	err  error
}

// do gives the outcome of a call of work that began after do was called.
func (g *group) do(work func() error) error {
	g.mu.Lock()
	if f := g.waiting; f != nil {
		g.mu.Unlock()
		<-f.done
		return f.err
	}
	f := &flush{done: make(chan struct{})}
	g.waiting = f
	g.mu.Unlock()

	g.working.Lock()
	defer g.working.Unlock()
	g.mu.Lock()
	g.waiting = nil // who comes from now on is too late for this one
	g.mu.Unlock()
	defer close(f.done)
	f.err = work()
	return f.err
}

// Flush makes everything durable that was written before it was called. Those
// who call it while a flush is under way share the next one. Where it fails
// for want of space, nothing is lost and it may be tried again.
func (d *Disk) Flush() error {
	if d.layer == nil {
		return nil
	}
	d.count.flushes.Add(1)
	return d.flushes.do(func() error {
		d.count.syncs.Add(1)
		err := d.layer.Flush()
		if err != nil && !errors.Is(err, os.ErrClosed) {
			d.failed.Store(&err)
		} else {
			d.failed.Store(nil)
		}
		return err
	})
}

// flushNowAndThen flushes what nobody else does. It looks twice as often as
// FlushEvery, and flushes what was there to be flushed the time before.
func (d *Disk) flushNowAndThen() {
	half := max(d.options.FlushEvery/2, time.Millisecond)
	ticker := time.NewTicker(half)
	defer ticker.Stop()
	waited := false
	for {
		select {
		case <-d.stop:
			return
		case <-ticker.C:
		}
		if d.layer.Sealed() || d.layer.Usage().Unsaved == 0 {
			waited = false
			continue
		}
		if !waited {
			waited = true
			continue
		}
		waited = false
		if err := d.Flush(); err != nil && !errors.Is(err, os.ErrClosed) {
			d.log.Error("cannot flush a slot's disk; it is tried again", "file", d.layer.Path(), "error", err)
		}
	}
}

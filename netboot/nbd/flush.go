package nbd

import "sync"

// A flusher makes one flush of those that come while one is under way.
type flusher struct {
	running sync.Mutex
	mu      sync.Mutex
	next    *flushing // has not begun
}

type flushing struct {
	done chan struct{}
	err  error
}

// flush gives the error of a Flush that began after it was called.
func (f *flusher) flush(d Device) error {
	f.mu.Lock()
	mine := f.next
	if mine != nil {
		f.mu.Unlock()
		<-mine.done
		return mine.err
	}
	mine = &flushing{done: make(chan struct{})}
	f.next = mine
	f.mu.Unlock()

	f.running.Lock()
	defer f.running.Unlock()
	f.mu.Lock()
	f.next = nil
	f.mu.Unlock()
	defer close(mine.done)
	mine.err = d.Flush()
	return mine.err
}

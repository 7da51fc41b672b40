package controller

import (
	"context"
	"sync"
	"time"
)

// The kinds of an event.
const (
	EventStep    = "step"    // a node came into another step or state
	EventJoin    = "join"    // a node was told what to do about its membership
	EventNode    = "node"    // an entry of the list was labelled, made active, removed
	EventToken   = "token"   // the join token was rotated
	EventRefused = "refused" // a call was refused
	EventAlarm   = "alarm"   // a person should look
	EventRevoked = "revoked" // a slot was revoked
	EventSwarm   = "swarm"   // the controller's swarm came or went
	EventNetboot = "netboot" // a slot that boots without a card has got somewhere

	EventOperation = "operation" // a rebuild or an upgrade has got somewhere
	EventWorkloads = "workloads" // something of what is declared to run was made, changed, removed
)

// An Event is something that happened, for whoever follows `hatchery events`.
type Event struct {
	Time   time.Time `json:"time"`
	Slot   int       `json:"slot,omitempty"`
	Kind   string    `json:"kind"`
	Detail string    `json:"detail"`
}

// How many events are kept for those who come later, and for one who is slow.
const (
	keptEvents = 256
	slowEvents = 256
)

// A feed gives events to whoever listens, and the last of them to whoever
// comes later.
type feed struct {
	mu        sync.Mutex
	kept      []Event
	listeners map[chan Event]struct{}
}

func (f *feed) publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.kept) == keptEvents {
		f.kept = append(f.kept[:0], f.kept[1:]...)
	}
	f.kept = append(f.kept, e)
	for c := range f.listeners {
		select {
		case c <- e:
		default:
			// Who does not keep up is cut off, and can come again.
			delete(f.listeners, c)
			close(c)
		}
	}
}

// listen gives what was kept, and a channel of what comes. It is closed for a
// listener that does not keep up.
func (f *feed) listen() (kept []Event, c <-chan Event, stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listeners == nil {
		f.listeners = map[chan Event]struct{}{}
	}
	listener := make(chan Event, slowEvents)
	f.listeners[listener] = struct{}{}
	return append([]Event(nil), f.kept...), listener, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if _, there := f.listeners[listener]; there {
			delete(f.listeners, listener)
			close(listener)
		}
	}
}

// relay tells the events of others with the service's own.
func (s *service) relay(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-s.Events:
			s.feed.publish(e)
		}
	}
}

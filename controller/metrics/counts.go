package metrics

import (
	"sync"

	"hatchery/controller"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// counts are what has happened since the service began.
type counts struct {
	mu     sync.Mutex
	events map[eventKey]uint64
	joins  map[int]uint64
	nodes  map[int]string // the slots' nodes as they were last seen
	recent []controller.Event
}

type eventKey struct {
	slot int
	kind string
}

// keptRecent is as many as the service keeps for those who come later
// (package controller, keptEvents).
const keptRecent = 256

func (c *counts) init() {
	c.events, c.joins, c.nodes = map[eventKey]uint64{}, map[int]uint64{}, map[int]string{}
}

func (c *counts) event(e controller.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.recent) == keptRecent {
		c.recent = append(c.recent[:0], c.recent[1:]...)
	}
	c.recent = append(c.recent, e)
	if e.Slot < 0 || e.Slot > clusterctrl.MaxSlot {
		return
	}
	c.events[eventKey{e.Slot, kindOf(e.Kind)}]++
}

// otherKind counts what is new in the service and not known here.
const otherKind = "other"

func kindOf(kind string) string {
	for _, k := range kinds {
		if kind == k {
			return k
		}
	}
	return otherKind
}

// reconnected is for events that begin with those that were kept, of which some
// were counted already.
func (c *counts) reconnected() *overlap {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &overlap{known: append([]controller.Event(nil), c.recent...)}
}

// An overlap tells events that were counted from those that were not: the kept
// events that a stream begins with are the end of what was seen, and what came
// then.
type overlap struct {
	known []controller.Event // that may still come again, in their order
	begun bool
}

func (o *overlap) isNew(e controller.Event) bool {
	if !o.begun {
		o.begun = true
		for len(o.known) > 0 && !same(o.known[0], e) {
			o.known = o.known[1:]
		}
	}
	if len(o.known) == 0 || !same(o.known[0], e) {
		o.known = nil
		return true
	}
	o.known = o.known[1:]
	return false
}

func same(a, b controller.Event) bool {
	return a.Time.Equal(b.Time) && a.Slot == b.Slot && a.Kind == b.Kind && a.Detail == b.Detail
}

// members counts the slots that have another node than they had. The first view
// is of who was there before.
func (c *counts) members(v *enrol.ClusterView) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range v.Slots {
		was, looked := c.nodes[s.Slot]
		if looked && s.NodeID != "" && s.NodeID != was {
			c.joins[s.Slot]++
		}
		if s.NodeID != "" || !looked {
			c.nodes[s.Slot] = s.NodeID
		}
		if _, counted := c.joins[s.Slot]; !counted {
			c.joins[s.Slot] = 0
		}
	}
}

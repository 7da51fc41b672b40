package page

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"hatchery/controller"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/hearsay"
)

// A State is what the page shows. In a change, what is as it was is left out:
// cards that are the same, and lists that are null.
type State struct {
	Now     time.Time `json:"now"` // by the controller's clock
	Cluster string    `json:"cluster"`
	Trouble string    `json:"trouble"` // why this is not up to date, "" if it is
	Facts   []Fact    `json:"facts"`
	Cards   []Card    `json:"cards"`
	Alarms  []Alarm   `json:"alarms"`
	Events  []Event   `json:"events,omitempty"` // the latest last; in a whole state only
}

// An Event is something that happened.
type Event struct {
	Time   time.Time `json:"time"`
	Slot   string    `json:"slot,omitempty"` // p2, unless the detail begins with it
	Kind   string    `json:"kind"`
	Detail string    `json:"detail"`
}

// How much is kept of events, and for a browser that is slow.
const (
	keptEvents  = 60
	slowChanges = 64
)

// A board is what the page shows, and who is told when it changes.
type board struct {
	mu       sync.Mutex
	state    State
	at       time.Time // when it was looked last; of this process
	watchers map[chan message]struct{}
}

// A message is one of the stream: its kind, and JSON in one line.
type message struct {
	kind string // state, event
	data []byte
}

// The kinds of messages.
const (
	kindState = "state" // a whole State, or what has changed
	kindEvent = "event" // an Event
)

// set takes a state in, and tells what has changed.
func (b *board) set(s State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.state
	s.Events = was.Events
	b.state, b.at = s, time.Now()
	change := State{Now: s.Now, Cluster: s.Cluster, Trouble: s.Trouble}
	news := was.Trouble != s.Trouble || was.Cluster != s.Cluster
	if !reflect.DeepEqual(was.Facts, s.Facts) {
		change.Facts, news = s.Facts, true
	}
	if !reflect.DeepEqual(was.Alarms, s.Alarms) {
		change.Alarms, news = s.Alarms, true
	}
	old := map[int]Card{}
	for _, c := range was.Cards {
		old[c.Slot] = c
	}
	for _, c := range s.Cards {
		if !reflect.DeepEqual(old[c.Slot], c) {
			change.Cards, news = append(change.Cards, c), true
		}
	}
	if news {
		b.tell(kindState, change)
	}
}

// happened takes an event in, and tells it.
func (b *board) happened(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// Never changed in place: who reads has a copy of the slice, not of what is in it.
	kept := b.state.Events[max(0, len(b.state.Events)-keptEvents+1):]
	b.state.Events = append(append([]Event(nil), kept...), e)
	b.tell(kindEvent, e)
}

// forget drops the events: they are about to be told again from the first.
func (b *board) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Events = nil
}

// tell gives a message to everybody who watches. The caller holds the lock.
func (b *board) tell(kind string, v any) {
	if len(b.watchers) == 0 {
		return
	}
	m, err := messageOf(kind, v)
	if err != nil {
		return
	}
	for c := range b.watchers {
		select {
		case c <- m:
		default:
			// Who does not keep up is cut off, and comes again.
			delete(b.watchers, c)
			close(c)
		}
	}
}

func messageOf(kind string, v any) (message, error) {
	data, err := json.Marshal(v)
	return message{kind, data}, err
}

// look is the state as it is, and how old it is.
func (b *board) look() (s State, age time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state, time.Since(b.at)
}

// watched says whether anybody looks.
func (b *board) watched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.watchers) > 0
}

// watch gives the whole state, and a channel of what changes. It is closed for one
// who does not keep up.
func (b *board) watch() (first message, c <-chan message, stop func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if first, err = messageOf(kindState, b.state); err != nil {
		return message{}, nil, nil, err
	}
	watcher := make(chan message, slowChanges)
	b.watchers[watcher] = struct{}{}
	return first, watcher, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, there := b.watchers[watcher]; there {
			delete(b.watchers, watcher)
			close(watcher)
		}
	}, nil
}

// viewTime is how long the service may take to say where everything stands.
const viewTime = 10 * time.Second

// refresh looks where everything stands, unless that was done a moment ago.
func (s *Service) refresh(ctx context.Context, young time.Duration) {
	s.looking.Lock()
	defer s.looking.Unlock()
	last, age := s.board.look()
	if age < young {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	v, err := s.View(ctx)
	if err != nil {
		if ctx.Err() == context.Canceled {
			return
		}
		last.Now, last.Trouble = time.Now().UTC(), said("The service does not answer: "+err.Error())
		s.board.set(last)
		return
	}
	state := State{Now: v.Time, Cluster: said(v.Cluster), Facts: clusterFacts(v), Cards: []Card{}, Alarms: alarmsOf(v)}
	for i := range v.Slots {
		state.Cards = append(state.Cards, cardOf(&v.Slots[i], s.outcome(v.Slots[i].Slot)))
	}
	s.board.set(state)
}

// outcome is what became of what was last done with a slot, nil for nothing.
func (s *Service) outcome(slot int) *outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.asked[slot]; o != nil {
		kept := *o
		return &kept
	}
	return nil
}

// follow keeps the state up to date as long as anybody looks.
func (s *Service) follow(ctx context.Context) {
	ticker := time.NewTicker(s.Times.Poll)
	defer ticker.Stop()
	for {
		young := s.Times.Poll / 2
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.news:
			young = 0
		}
		if s.board.watched() {
			s.refresh(ctx, young)
		}
	}
}

// soon has it looked where everything stands: something happened.
func (s *Service) soon() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// listen takes in what happens.
func (s *Service) listen(ctx context.Context) {
	told := false
	for ctx.Err() == nil {
		s.board.forget()
		err := s.Options.Events(ctx, true, func(e controller.Event) error {
			told = false
			event := Event{Time: e.Time, Kind: hearsay.Line(e.Kind, 40), Detail: said(e.Detail)}
			event.Slot = slotBeside(e.Slot, event.Detail)
			s.board.happened(event)
			s.soon()
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		if !told {
			told = true
			s.Log.Warn("the page is told of no events for now", "error", fmt.Sprint(err))
		}
		pause(ctx, s.Times.Again)
	}
}

// slotBeside is the slot's name, "" where the text begins with it anyhow, and for
// none.
func slotBeside(slot int, text string) string {
	name := clusterctrl.SlotName(slot)
	if slot <= 0 || text == name || strings.HasPrefix(text, name+" ") || strings.HasPrefix(text, name+":") {
		return ""
	}
	return name
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

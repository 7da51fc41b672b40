package firstboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"hatchery/internal/enrol"
)

// A loop goes through the steps. All of its fields belong to the goroutine of
// run; steps have goroutines of their own, which tell it by its channel.
type loop struct {
	steps     []*step
	intervals Intervals
	state     State // what does not change: who the node is
	previous  *State

	watchdog time.Duration // how often alive is called, 0 for never
	alive    func()
	changed  func(*State)       // with a copy, whenever something did
	tell     func(announcement) // what people and the journal are told
	wakes    <-chan string      // names of steps that are to be gone through again
	uptime   func() time.Duration

	messages chan message
	over     chan struct{} // closed when nobody takes messages any more
	steady   bool
}

// A step is a Step and where it stands.
type step struct {
	Step
	state  string
	detail string
	since  time.Time // with the monotonic clock
	tries  int
	due    time.Time // zero: not by itself

	ended     bool // detail is what a go ended with
	running   bool
	began     time.Time
	again     bool // woken while it ran
	stuck     bool
	up        bool          // was done when it was last looked at
	told      string        // what was last announced of it
	doneAfter time.Duration // up time when it was first done in this boot
	// When it was done, with the monotonic clock; zero for not in this run.
	first, last time.Time
	// When it was done according to the state that was found.
	foundFirst, foundLast *time.Time
}

// A message comes from a step's goroutine.
type message struct {
	step  *step
	tells string // not the end yet
	end   bool
	err   error
	text  string
}

// An announcement is something that happened, for people.
type announcement struct {
	event Event
	level slog.Level
	step  string
	text  string
	args  []any
}

func (l *loop) run(ctx context.Context) {
	l.messages = make(chan message, 16)
	l.over = make(chan struct{})
	defer close(l.over)
	for _, s := range l.steps {
		s.state, s.since, s.due = enrol.StateWaiting, time.Now(), time.Now()
		if old, ok := l.previous.Of(s.Name); ok {
			s.foundFirst, s.foundLast = old.FirstDone, old.LastDone
			if l.previous.BootID == l.state.BootID {
				s.doneAfter = time.Duration(old.DoneAfter * float64(time.Second))
			}
		}
		if s.Wake != nil {
			go l.listen(ctx, s)
		}
	}
	var pings <-chan time.Time
	if l.watchdog > 0 {
		ticker := time.NewTicker(l.watchdog)
		defer ticker.Stop()
		pings = ticker.C
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	ended := ctx.Done()
	var deadline <-chan time.Time
	for {
		next := l.start(ctx)
		l.publish()
		if ctx.Err() != nil && !l.anyRunning() {
			return
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case m := <-l.messages:
			l.take(ctx, m)
		case name := <-l.wakes:
			l.wake(name)
		case <-pings:
			if !l.anyStuck() {
				l.alive()
			}
		case <-ended:
			// The steps that run end by their context; one that does not is
			// left to the kernel.
			ended, deadline = nil, time.After(10*time.Second)
		case <-deadline:
			return
		}
	}
}

// listen passes a step's wake-ups on.
func (l *loop) listen(ctx context.Context, s *step) {
	for range s.Wake(ctx) {
		l.say(message{step: s})
	}
}

// say passes a message to the loop, as long as it runs.
func (l *loop) say(m message) {
	select {
	case l.messages <- m:
	case <-l.over:
	}
}

// start starts every step that is due and has what it needs, and gives how
// long it is until the next one is due.
func (l *loop) start(ctx context.Context) time.Duration {
	next := time.Hour
	if ctx.Err() != nil {
		return next
	}
	for _, s := range l.steps {
		if s.running {
			continue
		}
		if missing := l.missing(s); missing != "" {
			// What was done stays done: a link that is away for a minute
			// undoes nothing.
			if s.state != enrol.StateDone {
				l.set(s, enrol.StateWaiting, "waits for "+missing)
				s.due = time.Now()
			}
			continue
		}
		if s.due.IsZero() {
			continue
		}
		if wait := time.Until(s.due); wait > 0 {
			next = min(next, wait)
			continue
		}
		l.begin(ctx, s)
	}
	return next
}

// missing names the steps that s needs and that are not done.
func (l *loop) missing(s *step) string {
	var names []string
	for _, need := range s.Needs {
		if o := l.byName(need); o != nil && o.state != enrol.StateDone {
			names = append(names, need)
		}
	}
	return strings.Join(names, ", ")
}

func (l *loop) byName(name string) *step {
	for _, s := range l.steps {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func (l *loop) begin(ctx context.Context, s *step) {
	s.running, s.again, s.began, s.due = true, false, time.Now(), time.Time{}
	// A step that is gone through again stays what it was until it tells that
	// it does something: what comes of it is the same most of the time.
	if !s.ended {
		l.set(s, enrol.StateRunning, "")
	}
	limit := s.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("took more than %v", limit))
	go func() {
		defer cancel()
		text, err := attempt(ctx, &s.Step, func(format string, args ...any) {
			l.say(message{step: s, tells: fmt.Sprintf(format, args...)})
		})
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
		l.say(message{step: s, end: true, text: text, err: err})
	}()
}

// take takes what a step's goroutine says.
func (l *loop) take(ctx context.Context, m message) {
	s := m.step
	switch {
	case m.tells != "":
		l.set(s, enrol.StateRunning, m.tells)
	case !m.end:
		l.wake(s.Name)
	default:
		s.running, s.stuck = false, false
		if ctx.Err() != nil {
			return
		}
		l.finish(s, m.text, m.err)
	}
}

// mostPause is how long a step waits at the most, whoever asks for more.
const mostPause = time.Hour

func (l *loop) finish(s *step, text string, err error) {
	var waiting *Waiting
	switch {
	case err == nil:
		s.tries = 0
		if s.last = time.Now(); s.first.IsZero() {
			s.first = s.last
		}
		if s.doneAfter == 0 {
			s.doneAfter = l.uptime()
		}
		if s.Every > 0 {
			s.due = time.Now().Add(spread(s.Every))
		}
		l.end(s, enrol.StateDone, text)
		if s.up {
			break
		}
		s.up, s.told = true, ""
		l.announce(EventDone, slog.LevelInfo, s)
		// What needs this one may have lost something with it.
		for _, o := range l.steps {
			if slices.Contains(o.Needs, s.Name) {
				l.wake(o.Name)
			}
		}
	case errors.As(err, &waiting):
		pause := spread(min(waiting.After, mostPause))
		if waiting.After <= 0 {
			s.tries++
			pause = l.intervals.pause(s.tries)
		}
		s.due = time.Now().Add(pause)
		l.end(s, enrol.StateWaiting, err.Error())
		l.lost(s)
		l.announce(EventWaiting, slog.LevelInfo, s)
	default:
		s.tries++
		s.due = time.Now().Add(l.intervals.pause(s.tries))
		l.end(s, enrol.StateFailed, err.Error())
		l.lost(s)
		l.announce(EventFailed, slog.LevelWarn, s)
	}
	if s.again {
		s.due = time.Now()
	}
	steady := true
	for _, o := range l.steps {
		steady = steady && o.state == enrol.StateDone
	}
	if steady && !l.steady {
		l.tell(announcement{event: EventSteady, level: slog.LevelInfo, text: "all steps are done"})
	}
	l.steady = steady
}

// lost tells of a step that was done until now.
func (l *loop) lost(s *step) {
	if s.up {
		s.up = false
		l.tell(announcement{event: EventLost, level: slog.LevelWarn, step: s.Name, text: "is not done any more"})
	}
}

// wake has a step gone through at once, or as soon as it ended.
func (l *loop) wake(name string) {
	s := l.byName(name)
	switch {
	case s == nil:
	case s.running:
		s.again = true
	default:
		s.due, s.tries = time.Now(), 0
	}
}

func (l *loop) set(s *step, state, detail string) {
	if s.state != state {
		s.since = time.Now()
	}
	s.state, s.detail, s.ended = state, tidy(detail), false
}

// end sets what a go of a step ended with. The same with another number in it
// (a port that a call went out from) is no news, and not worth a write to the
// card.
func (l *loop) end(s *step, state, detail string) {
	if s.state == state && gist(tidy(detail)) == gist(s.detail) {
		detail = s.detail
	}
	l.set(s, state, detail)
	s.ended = true
}

func (l *loop) announce(event Event, level slog.Level, s *step) {
	// The same once more is no news.
	now := s.state + gist(s.detail)
	if now == s.told {
		return
	}
	s.told = now
	args := []any{"state", s.state}
	if s.tries > 0 {
		args = append(args, "tries", s.tries)
	}
	if !s.due.IsZero() && s.state != enrol.StateDone {
		args = append(args, "again_in", time.Until(s.due).Round(100*time.Millisecond).String())
	}
	l.tell(announcement{event: event, level: level, step: s.Name, text: s.detail, args: args})
}

func (l *loop) anyRunning() bool {
	for _, s := range l.steps {
		if s.running {
			return true
		}
	}
	return false
}

// anyStuck says whether a step is long past its limit.
func (l *loop) anyStuck() bool {
	any := false
	for _, s := range l.steps {
		limit := s.Limit
		if limit == 0 {
			limit = DefaultLimit
		}
		if !s.running || time.Since(s.began) < limit+l.intervals.Stuck {
			continue
		}
		any = true
		if !s.stuck {
			s.stuck = true
			l.tell(announcement{event: EventStuck, level: slog.LevelError, step: s.Name,
				text: fmt.Sprintf("does not end: it began %v ago and was told to end %v ago", time.Since(s.began).Round(time.Second), l.intervals.Stuck)})
		}
	}
	return any
}

// publish gives a copy of the state to those who pass it on, if it is another
// one.
func (l *loop) publish() {
	state := l.snapshot()
	if l.same(state) {
		return
	}
	l.previous = state
	l.changed(state)
}

// same says whether the state is the one that was published last, but for
// times that only a clock moved.
func (l *loop) same(state *State) bool {
	if l.previous == nil || len(l.previous.Steps) != len(state.Steps) || l.previous.BootID != state.BootID {
		return false
	}
	for i, s := range state.Steps {
		o := l.previous.Steps[i]
		if s.Name != o.Name || s.State != o.State || s.Detail != o.Detail || s.Tries != o.Tries || s.DoneAfter != o.DoneAfter {
			return false
		}
	}
	return true
}

func (l *loop) snapshot() *State {
	state := l.state
	now := time.Now()
	// A time of the monotonic clock by the wall clock as it goes now: that
	// may have been set since.
	wall := func(t time.Time) time.Time { return now.Add(-now.Sub(t)).UTC().Round(time.Millisecond) }
	state.Format = stateFormat
	state.Updated = wall(now)
	for _, s := range l.steps {
		shown := StepState{Name: s.Name, State: s.state, Detail: s.detail, Since: wall(s.since), Tries: s.tries,
			DoneAfter: s.doneAfter.Round(10 * time.Millisecond).Seconds(), FirstDone: s.foundFirst, LastDone: s.foundLast}
		if !s.running && s.state != enrol.StateDone && time.Until(s.due) > 0 {
			next := wall(s.due)
			shown.Next = &next
		}
		if !s.first.IsZero() {
			first, last := wall(s.first), wall(s.last)
			shown.LastDone = &last
			if shown.FirstDone == nil {
				shown.FirstDone = &first
			}
		}
		state.Steps = append(state.Steps, shown)
	}
	state.headline()
	return &state
}

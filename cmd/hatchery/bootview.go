package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8/cwriter"

	"hatchery/imagebuilder/emulator"
)

// bootEvents hands events of a rig on. A rig must never wait for a terminal,
// or for whoever reads a pipe: guests lose timer events meanwhile.
type bootEvents struct {
	mu     sync.Mutex
	events []emulator.Event
	more   chan struct{} // has one where there are events
	off    map[string]bool
}

func newBootEvents() *bootEvents {
	return &bootEvents{more: make(chan struct{}, 1), off: map[string]bool{}}
}

func (q *bootEvents) add(e emulator.Event) {
	q.mu.Lock()
	q.events = append(q.events, e)
	switch e.Kind {
	case emulator.Started:
		delete(q.off, e.Target)
	case emulator.Ended:
		q.off[e.Target] = true
	}
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *bootEvents) take() []emulator.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	events := q.events
	q.events = nil
	return events
}

// ended is how many guests are off, and stay so.
func (q *bootEvents) ended() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.off)
}

// A bootView shows what guests do while they do it.
type bootView interface {
	event(e emulator.Event)
	status(all []emulator.Status) // of every guest, every second and after events
	end(keep bool)                // keep leaves standing what is redrawn
}

// view is the one that suits: a table on a terminal, lines elsewhere, JSON for
// programs.
func (b *booting) view(goal emulator.Goal) bootView {
	stderr := b.command.ErrOrStderr()
	switch {
	case b.quiet:
		return noView{}
	case b.json:
		return jsonView{json.NewEncoder(b.command.OutOrStdout())}
	}
	if w := cwriter.New(stderr); w.IsTerminal() && os.Getenv("TERM") != "dumb" {
		return &tableView{w: w, goal: goal}
	}
	return newLinesView(stderr, goal)
}

// show hands a view what happens, until it is stopped.
func show(view bootView, events *bootEvents, status func() []emulator.Status) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for last := false; ; {
			for _, e := range events.take() {
				view.event(e)
			}
			view.status(status())
			if last {
				return
			}
			select {
			case <-events.more:
			case <-tick.C:
			case <-quit:
				last = true
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(quit)
		<-done
	})
}

// noView shows nothing.
type noView struct{}

func (noView) event(emulator.Event)     {}
func (noView) status([]emulator.Status) {}
func (noView) end(bool)                 {}

// jsonView prints every event.
type jsonView struct{ out *json.Encoder }

func (v jsonView) event(e emulator.Event)   { v.out.Encode(e) }
func (v jsonView) status([]emulator.Status) {}
func (v jsonView) end(bool)                 {}

// linesView prints a line for every event of interest.
type linesView struct {
	w       io.Writer
	goal    emulator.Goal
	said    map[string]string // by target and step: what its last line said
	reached map[string]bool
	rearmed map[string]bool
}

func newLinesView(w io.Writer, goal emulator.Goal) *linesView {
	return &linesView{w: w, goal: goal, said: map[string]string{}, reached: map[string]bool{}, rearmed: map[string]bool{}}
}

func (v *linesView) event(e emulator.Event) {
	text := eventText(e)
	switch e.Kind {
	case emulator.Step:
		// The agent may say the same again, on another console or at its next try.
		key := e.Target + " " + e.Step
		if v.said[key] == text {
			return
		}
		v.said[key] = text
	case emulator.Rearmed:
		// It is nothing that the guest notices, and on a busy machine there are many.
		if v.rearmed[e.Target] {
			return
		}
		v.rearmed[e.Target] = true
		text += " (further ones are only counted)"
	case emulator.Retried, emulator.Rebooted:
		for key := range v.said {
			if strings.HasPrefix(key, e.Target+" ") {
				delete(v.said, key)
			}
		}
		delete(v.reached, e.Target)
	}
	v.line(e.Seconds, e.Target, text)
}

func (v *linesView) line(seconds float64, target, text string) {
	printLine(v.w, "%7.1f s  %-10s  %s", seconds, target, text)
}

func (v *linesView) status(all []emulator.Status) {
	for _, s := range all {
		if at, ok := s.Reached[v.goal]; ok && !v.reached[s.Target] {
			v.reached[s.Target] = true
			v.line(at, s.Target, "has come to "+string(v.goal))
		}
	}
}

func (v *linesView) end(bool) {}

// eventText says what happened.
func eventText(e emulator.Event) string {
	switch e.Kind {
	case emulator.Started:
		return joined("is switched on", e.Detail)
	case emulator.Milestone:
		what := string(e.Phase)
		switch e.Phase {
		case emulator.Power:
			what = "has power"
		case emulator.Kernel:
			what = "the kernel starts"
		case emulator.System:
			what = "the system starts"
		case emulator.Agent:
			what = "the agent starts"
		case emulator.LogIn:
			what = "asks for a log-in"
		}
		return joined(what, e.Detail)
	case emulator.Step:
		return joined(e.Step, agentWords(e.State, e.Detail))
	case emulator.Warning:
		return joined("warning", e.Detail)
	case emulator.Rearmed:
		if e.Detail != "" {
			return e.Detail
		}
		return "a lost timer event was given back"
	case emulator.Rebooted:
		return joined("reboots", e.Detail)
	case emulator.Retried:
		return joined("is begun afresh on a new card", e.Detail)
	case emulator.Ended:
		return joined("is off", e.Detail)
	}
	return joined(e.Kind, e.Detail)
}

// tableView redraws a table in place; what is to be remembered scrolls away
// above it.
type tableView struct {
	w     *cwriter.Writer
	goal  emulator.Goal
	above []string
}

func (v *tableView) event(e emulator.Event) {
	switch e.Kind {
	case emulator.Started, emulator.Milestone, emulator.Step, emulator.Rearmed: // the table says it
	default:
		v.above = append(v.above, oneLine(fmt.Sprintf("%s  %s: %s", clock(e.Seconds), e.Target, eventText(e))))
	}
}

func (v *tableView) status(all []emulator.Status) {
	columns, rows, err := v.w.GetTermSize()
	if err != nil || columns <= 0 || rows <= 0 {
		columns, rows = 80, 24
	}
	// The last line stays free, for the cursor; and a line that is broken by the
	// terminal would be two when it is to be redrawn.
	table := bootTable(all, v.goal, columns-1, max(rows-1, 1))
	for _, line := range append(v.above, table...) {
		fmt.Fprintln(v.w, line)
	}
	v.above = nil
	v.w.Flush(len(table))
}

func (v *tableView) end(keep bool) {
	if !keep {
		v.w.Flush(0) // what goes up to the table's head and erases from there is written now
	}
}

// shellWord is a text as one word for a shell, in quotes where it needs them.
func shellWord(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_./:@%+,=-", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return quoteShell(text)
}

package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"hatchery/internal/hearsay"
)

const (
	// chunk is how much is read at once, in bytes.
	chunk = 4 << 10
	// slow is how many chunks one who looks on may be behind.
	slow = 256
	// pace is how much a console may say: more is left to wait in the node. It
	// is a hundred times what a serial line of 115200 baud carries, and little
	// enough that a node gone mad does not take the controller with it.
	pace, pacePeriod = 256 << 10, 250 * time.Millisecond
	// typing is how long what was typed may wait for a node that does not take
	// it.
	typing = 5 * time.Second
)

// ErrTaken says that somebody is attached.
var ErrTaken = errors.New("somebody is attached to it")

// ErrGone says that the serial port is not there.
var ErrGone = errors.New("the console is not there: its node is off, or has no USB gadget (yet)")

// A line is one slot's console.
type line struct {
	slot         int
	name, device string
	every        time.Duration
	log          *slog.Logger

	mu       sync.Mutex
	kept     *tail
	keepless bool // that nothing can be kept was told
	port     port // nil: not there
	since    time.Time
	trouble  string
	watchers map[*watcher]struct{}
	writer   *watcher // who is attached
}

// A port is a serial port; reading it ends when it goes away.
type port interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	SetWriteDeadline(t time.Time) error
	Close() error
}

// A watcher looks on. What comes is closed for one that does not keep up, or
// whose place somebody took.
type watcher struct {
	coming chan []byte
	end    string // why it was closed
}

// run reads the port for as long as it is there, and waits for it otherwise,
// until ctx ends.
func (l *line) run(ctx context.Context) {
	defer l.leave()
	for {
		p, err := openPort(l.device)
		if err != nil {
			l.missing(err)
		} else {
			l.appeared(p)
			l.read(ctx, p)
			l.lost()
			p.Close()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(l.every):
		}
	}
}

func (l *line) read(ctx context.Context, p port) {
	defer context.AfterFunc(ctx, func() { p.Close() })()
	buffer := make([]byte, chunk)
	began, said := time.Now(), 0
	for {
		n, err := p.Read(buffer)
		if n > 0 {
			l.heard(buffer[:n])
		}
		if err != nil {
			return // it went away, whatever the driver calls that
		}
		if passed := time.Since(began); passed >= pacePeriod {
			began, said = time.Now(), 0
		} else if said += n; said >= pace {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pacePeriod - passed):
			}
		}
	}
}

// missing notes why there is no port.
func (l *line) missing(err error) {
	trouble := ""
	if !errors.Is(err, fs.ErrNotExist) && !absent(err) {
		trouble = hearsay.Line(err.Error(), 300)
	}
	l.mu.Lock()
	news := trouble != "" && trouble != l.trouble
	l.trouble = trouble
	l.mu.Unlock()
	if news {
		l.log.Warn("a console cannot be read", "error", trouble)
	}
}

func (l *line) appeared(p port) {
	l.mu.Lock()
	l.port, l.since, l.trouble = p, time.Now(), ""
	l.mu.Unlock()
	l.heard(note("the console of %s is there, %s", l.name, time.Now().Format(time.DateTime)))
}

func (l *line) lost() {
	l.mu.Lock()
	l.port, l.since = nil, time.Now()
	l.mu.Unlock()
	l.heard(note("the console of %s is gone, %s", l.name, time.Now().Format(time.DateTime)))
}

// note is what the service itself says among what a node says.
func note(format string, values ...any) []byte {
	return []byte("\r\n[hatchery: " + fmt.Sprintf(format, values...) + "]\r\n")
}

// heard keeps what was said, and passes it on.
func (l *line) heard(data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.kept.add(data); err == nil {
		l.keepless = false
	} else if !l.keepless {
		l.keepless = true
		l.log.Warn("what a console says cannot be kept", "error", err)
	}
	if len(l.watchers) == 0 {
		return
	}
	data = bytes.Clone(data)
	for w := range l.watchers {
		select {
		case w.coming <- data:
		default:
			l.cut(w, "this was too slow for what the console says")
		}
	}
}

// cut lets a watcher go; l.mu is held.
func (l *line) cut(w *watcher, why string) {
	if _, there := l.watchers[w]; !there {
		return
	}
	delete(l.watchers, w)
	if l.writer == w {
		l.writer = nil
	}
	w.end = why
	close(w.coming)
}

// leave lets everybody go: the service ends.
func (l *line) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.watchers {
		l.cut(w, "the service ends")
	}
	l.kept.close()
}

// watch gives what was kept, and a watcher of what comes: nothing is missing in
// between, and nothing is there twice.
func (l *line) watch() (kept []byte, w *watcher, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if kept, err = l.kept.end(Kept); err != nil {
		return nil, nil, fmt.Errorf("cannot read what the console of %s said: %w", l.name, err)
	}
	w = &watcher{coming: make(chan []byte, slow)}
	l.watchers[w] = struct{}{}
	return kept, w, nil
}

// attach is watch for one who types. Only take lets another go who does.
func (l *line) attach(take bool) (kept []byte, w *watcher, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writer != nil && !take {
		return nil, nil, fmt.Errorf("the console of %s: %w", l.name, ErrTaken)
	}
	if kept, err = l.kept.end(Kept); err != nil {
		return nil, nil, fmt.Errorf("cannot read what the console of %s said: %w", l.name, err)
	}
	if l.writer != nil {
		l.cut(l.writer, "somebody else has taken this console")
	}
	w = &watcher{coming: make(chan []byte, slow)}
	l.watchers[w] = struct{}{}
	l.writer = w
	return kept, w, nil
}

// forget ends a watcher that had enough.
func (l *line) forget(w *watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut(w, "")
}

// send types for a watcher that is attached. What a node does not take in time
// is dropped: its console hangs.
func (l *line) send(w *watcher, data []byte) error {
	l.mu.Lock()
	p, attached := l.port, l.writer == w
	l.mu.Unlock()
	switch {
	case !attached:
		return ErrTaken
	case p == nil:
		return ErrGone
	}
	if err := p.SetWriteDeadline(time.Now().Add(typing)); err != nil {
		return ErrGone
	}
	if _, err := p.Write(data); err != nil {
		return fmt.Errorf("the node does not take what is typed: %w", err)
	}
	return nil
}

func (l *line) view() View {
	last := ""
	if lines := l.last(1); len(lines) > 0 {
		last = hearsay.Line(lines[0], 200)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v := View{Slot: l.slot, Name: l.name, Device: l.device, Open: l.port != nil, Trouble: l.trouble,
		Kept: l.kept.length(), Attached: l.writer != nil, Watching: len(l.watchers), Last: last}
	if l.writer != nil {
		v.Watching--
	}
	if !l.since.IsZero() {
		// By the clock as it is now, whatever it was then.
		now := time.Now()
		since := now.Add(-now.Sub(l.since)).Round(0).UTC()
		v.Since = &since
	}
	return v
}

// lastLines is how much of a console's end is looked through for its last lines,
// in bytes.
const lastLines = 16 << 10

func (l *line) last(most int) []string {
	l.mu.Lock()
	data, err := l.kept.end(lastLines)
	l.mu.Unlock()
	if err != nil {
		return nil
	}
	var shown strings.Builder
	plain := NewPlain(&shown)
	plain.Write(data)
	plain.Close()
	var lines []string
	for text := range strings.Lines(shown.String()) {
		if text = strings.TrimSpace(text); text != "" && !strings.HasPrefix(text, "[hatchery: ") {
			lines = append(lines, text)
		}
	}
	return lines[max(len(lines)-most, 0):]
}

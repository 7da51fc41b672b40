// Package terminal shows progress to people: bars on a terminal, plain lines
// anywhere else, JSON events for programs.
package terminal

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"hatchery/internal/progress"
)

// A Display is a reporter that must be closed, so that the last bar is drawn.
type Display interface {
	progress.Reporter
	Close()
}

// Silent is the display that shows nothing.
var Silent Display = silent{progress.Discard}

type silent struct{ progress.Reporter }

func (silent) Close() {}

// New gives the display that fits w: bars where w is a terminal, else lines.
func New(w io.Writer) Display {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		// Bars that are done scroll away: there may be more tasks than rows.
		return &bars{container: mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.PopCompletedMode())}
	}
	return &lines{w: w, now: time.Now}
}

// NewJSON gives the display for programs: one JSON object a line, with the
// keys event (begin, progress, end), task, done, total (bytes; -1 unknown),
// seconds and error.
func NewJSON(w io.Writer) Display {
	return &lines{w: w, now: time.Now, json: true}
}

// bars draws one bar for every task under way.
type bars struct{ container *mpb.Progress }

func (b *bars) Begin(name string, total int64) progress.Task {
	name = fmt.Sprintf("%-28s ", printable(name))
	var bar *mpb.Bar
	if total > 0 {
		// Its total comes after: a bar that is made with one cannot be ended
		// before it is there, and one that never ends is waited for for ever.
		bar = b.container.AddBar(0,
			mpb.PrependDecorators(decor.Name(name)),
			mpb.AppendDecorators(
				decor.CountersKibiByte("% .0f / % .0f"),
				decor.AverageSpeed(decor.SizeB1024(0), "  % .0f"),
				decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 7}), ""),
			))
		bar.SetTotal(total, false)
	} else {
		bar = b.container.AddSpinner(0, mpb.PrependDecorators(decor.Name(name)),
			mpb.AppendDecorators(decor.OnComplete(decor.Elapsed(decor.ET_STYLE_GO), "done")))
	}
	return &barTask{bar: bar, total: total}
}

func (b *bars) Close() { b.container.Wait() }

type barTask struct {
	bar   *mpb.Bar
	total int64 // at most 0 where it is not known
	once  sync.Once
}

func (t *barTask) Add(n int64) { t.bar.IncrInt64(n) }

func (t *barTask) End(err error) {
	t.once.Do(func() {
		switch {
		case err != nil:
			t.bar.Abort(false)
		case t.total > 0:
			t.bar.SetTotal(t.total, true)
		default:
			t.bar.SetTotal(-1, true)
		}
	})
}

// lines prints when a task begins, every few seconds while it runs, and when
// it ends.
type lines struct {
	mu   sync.Mutex
	w    io.Writer
	now  func() time.Time
	json bool
}

// interval is how often a running task prints a line.
const interval = 5 * time.Second

func (l *lines) Close() {}

func (l *lines) Begin(name string, total int64) progress.Task {
	t := &lineTask{lines: l, name: name, total: total, begun: l.now()}
	t.last = t.begun
	l.print(t, "begin", nil)
	return t
}

func (l *lines) print(t *lineTask, event string, err error) {
	seconds := l.now().Sub(t.begun).Seconds()
	if l.json {
		record := struct {
			Event   string  `json:"event"`
			Task    string  `json:"task"`
			Done    int64   `json:"done"`
			Total   int64   `json:"total"`
			Seconds float64 `json:"seconds"`
			Error   string  `json:"error,omitempty"`
		}{event, t.name, t.done, t.total, seconds, ""}
		if err != nil {
			record.Error = err.Error()
		}
		json.NewEncoder(l.w).Encode(record)
		return
	}
	name := printable(t.name)
	switch {
	case event == "begin":
		fmt.Fprintf(l.w, "%s ...\n", name)
	case event == "progress" && t.total > 0:
		fmt.Fprintf(l.w, "%s: %d of %d MiB (%d %%)\n", name, t.done>>20, t.total>>20, t.done*100/t.total)
	case event == "progress":
		fmt.Fprintf(l.w, "%s: %d MiB\n", name, t.done>>20)
	case err != nil:
		fmt.Fprintf(l.w, "%s: failed after %.1f s\n", name, seconds)
	default:
		fmt.Fprintf(l.w, "%s: done in %.1f s\n", name, seconds)
	}
}

// printable leaves out of a name what commands a terminal: names of files are in
// it, which somebody else may have chosen.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, name)
}

type lineTask struct {
	*lines
	name        string
	total, done int64
	begun, last time.Time
	ended       bool
}

func (t *lineTask) Add(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += n
	if now := t.now(); now.Sub(t.last) >= interval {
		t.last = now
		t.print(t, "progress", nil)
	}
}

func (t *lineTask) End(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.ended = true
		t.print(t, "end", err)
	}
}

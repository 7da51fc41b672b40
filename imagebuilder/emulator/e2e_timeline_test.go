package emulator_test

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/imagebuilder/emulator"
)

// A timeline is how long guests took to get where, a column for each first
// boot of one.
type timeline struct {
	mu    sync.Mutex
	boots []*firstBoot
}

// A firstBoot is one of a guest with a fresh card.
type firstBoot struct {
	target, name string
	rows         map[string]float64 // what was reached, and after how many seconds
	rearmed      int
	reboots      int
	retries      int
}

// begin begins a column for a guest.
func (l *timeline) begin(target, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.boots = append(l.boots, &firstBoot{target: target, name: name, rows: map[string]float64{}})
}

// current is the latest boot of a guest.
func (l *timeline) current(target string) *firstBoot {
	for _, b := range slices.Backward(l.boots) {
		if b.target == target {
			return b
		}
	}
	return nil
}

// took takes an event.
func (l *timeline) took(e emulator.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.current(e.Target)
	if b == nil {
		return
	}
	row := ""
	switch {
	case e.Kind == emulator.Milestone:
		row = phaseRows[e.Phase]
	case e.Kind == emulator.Step && e.State == "done":
		row = e.Step
	case e.Kind == emulator.Rearmed:
		b.rearmed++
	case e.Kind == emulator.Rebooted:
		b.reboots++
	case e.Kind == emulator.Retried:
		b.retries++
		clear(b.rows) // what counts is the boot that worked
	}
	if _, before := b.rows[row]; row != "" && !before {
		b.rows[row] = e.Seconds
	}
}

// reached is what a guest got to that no event tells of.
func (l *timeline) reached(target, row string, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current(target).rows[row] = time.Since(since).Seconds()
}

// phaseRows is what phases are called in the table.
var phaseRows = map[emulator.Phase]string{
	emulator.Kernel: "the kernel speaks",
	emulator.System: "systemd runs",
	emulator.Agent:  "the agent runs",
	emulator.LogIn:  "log-in prompt",
}

// String is the table, as documents have it.
func (l *timeline) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	earliest := map[string]float64{}
	for _, b := range l.boots {
		for row, at := range b.rows {
			if first, ok := earliest[row]; !ok || at < first {
				earliest[row] = at
			}
		}
	}
	rows := slices.Collect(maps.Keys(earliest))
	slices.SortFunc(rows, func(a, b string) int {
		return cmp.Or(cmp.Compare(earliest[a], earliest[b]), strings.Compare(a, b))
	})
	var out strings.Builder
	line := func(first string, cell func(*firstBoot) string) {
		fmt.Fprintf(&out, "| %s |", first)
		for _, b := range l.boots {
			fmt.Fprintf(&out, " %s |", cell(b))
		}
		out.WriteByte('\n')
	}
	line("seconds until", func(b *firstBoot) string { return b.name })
	fmt.Fprintf(&out, "|---|%s\n", strings.Repeat("---|", len(l.boots)))
	for _, row := range rows {
		line(row, func(b *firstBoot) string {
			at, ok := b.rows[row]
			if !ok {
				return ""
			}
			return fmt.Sprintf("%.1f", at)
		})
	}
	line("timer events given back", func(b *firstBoot) string { return strconv.Itoa(b.rearmed) })
	line("reboots", func(b *firstBoot) string { return strconv.Itoa(b.reboots) })
	line("begun again on a new card", func(b *firstBoot) string { return strconv.Itoa(b.retries) })
	return out.String()
}

func TestTimeline(t *testing.T) {
	var l timeline
	l.begin("controller", "controller")
	l.begin("p1", "p1")
	event := func(target, kind string, seconds float64, set func(*emulator.Event)) {
		e := emulator.Event{Target: target, Kind: kind, Seconds: seconds}
		if set != nil {
			set(&e)
		}
		l.took(e)
	}
	phase := func(p emulator.Phase) func(*emulator.Event) { return func(e *emulator.Event) { e.Phase = p } }
	step := func(name, state string) func(*emulator.Event) {
		return func(e *emulator.Event) { e.Step, e.State = name, state }
	}
	event("controller", emulator.Milestone, 1, phase(emulator.Kernel))
	event("p1", emulator.Milestone, 1.5, phase(emulator.Kernel))
	event("p1", emulator.Step, 20, step("join", "done"))
	event("p1", emulator.Retried, 90, nil)
	event("p1", emulator.Milestone, 2, phase(emulator.Kernel))
	event("p1", emulator.Step, 40, step("link", "waiting"))
	event("p1", emulator.Step, 44.3, step("link", "done"))
	event("p1", emulator.Step, 50, step("link", "lost"))
	event("p1", emulator.Step, 51, step("link", "done"))
	event("p1", emulator.Rearmed, 52, nil)
	event("controller", emulator.Rebooted, 60, nil)
	event("controller", emulator.Step, 60, step("swarm", "done"))
	event("p9", emulator.Step, 60, step("of nobody", "done"))
	l.begin("p1", "p1, a new card")
	event("p1", emulator.Step, 70, step("join", "done"))
	want := `| seconds until | controller | p1 | p1, a new card |
|---|---|---|---|
| the kernel speaks | 1.0 | 2.0 |  |
| link |  | 44.3 |  |
| swarm | 60.0 |  |  |
| join |  |  | 70.0 |
| timer events given back | 0 | 1 | 0 |
| reboots | 1 | 0 | 0 |
| begun again on a new card | 0 | 1 | 0 |
`
	if got := l.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// kernelStarts are the clock's times when a guest's kernels started: audit
// stamps its first message with the time of day, as nothing else on the console does
// (kernel/audit.c, audit_log_start).
var auditStart = regexp.MustCompile(`audit: type=2000 audit\((\d+)\.\d+:\d+\): state=initialized`)

func kernelStarts(console string) []time.Time {
	var starts []time.Time
	for _, m := range auditStart.FindAllStringSubmatch(console, -1) {
		if seconds, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			starts = append(starts, time.Unix(seconds, 0).UTC())
		}
	}
	return starts
}

func TestKernelStarts(t *testing.T) {
	for _, test := range []struct {
		summary, console string
		want             []time.Time
	}{
		{"nothing", "", nil},
		{"no clock", "     6.9  [    0.358055] audit: type=2000 audit(0.268:1): state=initialized audit_enabled=0 res=1\n", []time.Time{time.Unix(0, 0).UTC()}},
		{"a clock, then none", "audit: type=2000 audit(1763769600.268:1): state=initialized\nx\naudit: type=2000 audit(1.5:1): state=initialized\n", []time.Time{time.Unix(1763769600, 0).UTC(), time.Unix(1, 0).UTC()}},
		{"another message", "audit: type=1400 audit(5.268:2): apparmor=x\n", nil},
	} {
		if got := kernelStarts(test.console); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.summary, got, test.want)
		}
	}
}

func TestGreeter(t *testing.T) {
	for _, test := range []struct{ line, host, problem string }{
		{"hello from p1: linux/arm\n", "p1", ""},
		{"hello from p1: linux/amd64\n", "", "not as linux/arm"},
		{"", "", "no answer of the test app"},
		{"hello from : linux/arm", "", "no answer of the test app"},
		{"hello from a b: linux/arm", "", "no answer of the test app"},
		{"<html>p1: linux/arm", "", "no answer of the test app"},
	} {
		host, err := greeter(test.line)
		if host != test.host || (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
			t.Errorf("%q: got %q, %v", test.line, host, err)
		}
	}
}

func TestParseUnix(t *testing.T) {
	for _, test := range []struct {
		text string
		want time.Time
		ok   bool
	}{
		{"1763769600.000000007", time.Unix(1763769600, 7), true},
		{"0.500000000", time.Unix(0, 5e8), true},
		{"1763769600", time.Time{}, false},
		{"1763769600.%N", time.Time{}, false},
		{"1763769600.5", time.Time{}, false},
		{"", time.Time{}, false},
	} {
		got, err := parseUnix(test.text)
		if (err == nil) != test.ok || !got.Equal(test.want) {
			t.Errorf("%q: got %v, %v", test.text, got, err)
		}
	}
}

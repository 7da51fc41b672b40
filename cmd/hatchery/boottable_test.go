package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/emulator"
)

func TestBootTable(t *testing.T) {
	steps := func(name, state, detail string, at time.Duration, more map[string]emulator.StepStatus) map[string]emulator.StepStatus {
		all := map[string]emulator.StepStatus{name: {State: state, Detail: detail, At: at}}
		for k, v := range more {
			all[k] = v
		}
		return all
	}
	ready := map[emulator.Goal]float64{emulator.Ready: 118.4}
	fine := map[string]emulator.StepStatus{"link": {State: "done", At: 90 * time.Second}}
	status := []emulator.Status{
		{Target: "controller", Phase: emulator.Agent, Seconds: 130.9, Latest: "swarm", Steps: steps("swarm", "done", "", time.Second, nil), Reached: ready, Rearmed: 3, Retries: 1, Reboots: 2},
		// What it waits for counts more than what spoke last.
		{Target: "p1", Phase: emulator.LogIn, Seconds: 75, Latest: "link", Steps: steps("packages", "waiting", "dpkg is at docker.io", time.Minute, fine)},
		{Target: "p2", Phase: emulator.Agent, Seconds: 75, Latest: "link", Steps: fine},
		{Target: "p3", Phase: emulator.Kernel, Seconds: 3600},
		{Target: "p252", Phase: emulator.Off, Seconds: 0, Latest: "join", Steps: steps("join", "failed", "\x1b[2Jx\ny\tz", 0, nil)},
	}
	for _, test := range []struct {
		summary       string
		columns, rows int
		want          string
	}{
		{"as wide as it takes", 0, 0, `
TARGET        TIME  PHASE   STEP      STATE
controller    2:10  agent   swarm     ready after 1:58 (begun afresh once, rebooted twice, lost a timer event 3 times)
p1            1:15  log-in  packages  waiting: dpkg is at docker.io
p2            1:15  agent   link      done
p3           60:00  kernel  -
p252          0:00  off     join      failed: \x1b[2Jx y z
`},
		{"a small terminal", 46, 4, `
TARGET        TIME  PHASE   STEP      STATE
controller    2:10  agent   swarm     ready a…
p1            1:15  log-in  packages  waiting…
… and 3 guests; the terminal has no more lines
`},
		{"hardly one", 3, 1, `
… …
`},
	} {
		got := "\n" + strings.Join(bootTable(status, emulator.Ready, test.columns, test.rows), "\n") + "\n"
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.summary, diff)
		}
	}
}

// TestBootLines is what is told elsewhere than on a terminal.
func TestBootLines(t *testing.T) {
	var out bytes.Buffer
	view := newLinesView(&out, emulator.Docker)
	event := func(kind, target string, seconds float64, more func(e *emulator.Event)) {
		e := emulator.Event{Kind: kind, Target: target, Seconds: seconds}
		if more != nil {
			more(&e)
		}
		view.event(e)
	}
	step := func(step, state, detail string) func(*emulator.Event) {
		return func(e *emulator.Event) { e.Step, e.State, e.Detail = step, state, detail }
	}
	phase := func(p emulator.Phase) func(*emulator.Event) { return func(e *emulator.Event) { e.Phase = p } }
	detail := func(d string) func(*emulator.Event) { return func(e *emulator.Event) { e.Detail = d } }
	event(emulator.Warning, "p1", 0, detail("a Zero W is booted as a Pi Zero"))
	event(emulator.Started, "p1", 0, detail("raspi0"))
	event(emulator.Milestone, "p1", 3.2, phase(emulator.Kernel))
	event(emulator.Milestone, "p1", 13, phase(emulator.System))
	event(emulator.Milestone, "p1", 62, phase(emulator.Agent))
	event(emulator.Step, "p1", 62.4, step("link", "waiting", "the controller does not answer"))
	event(emulator.Step, "p1", 64, step("link", "waiting", "the controller does not answer")) // again
	event(emulator.Step, "p2", 64, step("link", "waiting", "the controller does not answer"))
	event(emulator.Step, "p1", 70, step("link", "done", ""))
	event(emulator.Step, "p1", 70.5, step("clock", "waiting", "waits for the controller's service"))
	event(emulator.Step, "p1", 71, step("link", "waiting", "the controller does not answer"))
	event(emulator.Milestone, "p1", 74, phase(emulator.LogIn))
	event(emulator.Rearmed, "p1", 80, detail("a lost timer event was given back after 1.2s"))
	event(emulator.Rearmed, "p1", 81, detail("a lost timer event was given back after 1.2s"))
	event(emulator.Rearmed, "p2", 82, nil)
	event(emulator.Rebooted, "p1", 100, nil)
	view.status([]emulator.Status{{Target: "p1", Reached: map[emulator.Goal]float64{emulator.Docker: 120, emulator.Login: 1}}, {Target: "p2"}})
	view.status([]emulator.Status{{Target: "p1", Reached: map[emulator.Goal]float64{emulator.Docker: 120}}}) // still
	event(emulator.Retried, "p1", 0, detail("the guest hangs"))
	event(emulator.Step, "p1", 64, step("link", "waiting", "the controller does not answer")) // of another life
	event(emulator.Step, "p2", 65, step("link", "waiting", "the controller does not answer")) // of the same
	event(emulator.Ended, "p1", 200, detail("switched off\x1b[2J"))
	event("juggled", "p1", 201, nil) // by an emulator of tomorrow
	want := `    0.0 s  p1          warning: a Zero W is booted as a Pi Zero
    0.0 s  p1          is switched on: raspi0
    3.2 s  p1          the kernel starts
   13.0 s  p1          the system starts
   62.0 s  p1          the agent starts
   62.4 s  p1          link: waiting: the controller does not answer
   64.0 s  p2          link: waiting: the controller does not answer
   70.0 s  p1          link: done
   70.5 s  p1          clock: waits for the controller's service
   71.0 s  p1          link: waiting: the controller does not answer
   74.0 s  p1          asks for a log-in
   80.0 s  p1          a lost timer event was given back after 1.2s (further ones are only counted)
   82.0 s  p2          a lost timer event was given back (further ones are only counted)
  100.0 s  p1          reboots
  120.0 s  p1          has come to docker
    0.0 s  p1          is begun afresh on a new card: the guest hangs
   64.0 s  p1          link: waiting: the controller does not answer
  200.0 s  p1          is off: switched off\x1b[2J
  201.0 s  p1          juggled
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// stuckView is somebody who reads nothing.
type stuckView struct {
	noView
	free chan struct{}
}

func (v stuckView) event(emulator.Event) { <-v.free }

// TestNobodyReads: a rig can always tell what happens, and nothing of it is
// lost.
func TestNobodyReads(t *testing.T) {
	events := newBootEvents()
	view := stuckView{free: make(chan struct{})}
	stop := show(view, events, func() []emulator.Status { return nil })
	for range 1000 {
		events.add(emulator.Event{Kind: emulator.Step})
	}
	for range 1000 {
		view.free <- struct{}{}
	}
	stop()
	stop()
	if left := events.take(); len(left) > 0 {
		t.Errorf("%d events were not shown", len(left))
	}
}

// heldView holds the one who shows at its first event.
type heldView struct {
	noView
	seen          *int
	reached, free chan struct{}
}

func (v heldView) event(emulator.Event) {
	if *v.seen++; *v.seen == 1 {
		close(v.reached)
		<-v.free
	}
}

// TestLastEvents: what happens until the end is shown before it.
func TestLastEvents(t *testing.T) {
	for range 20 { // chance decides what is looked at first, the events or the end
		events, seen := newBootEvents(), 0
		view := heldView{seen: &seen, reached: make(chan struct{}), free: make(chan struct{})}
		stop := show(view, events, func() []emulator.Status { return nil })
		events.add(emulator.Event{})
		<-view.reached
		events.add(emulator.Event{})
		stopped := make(chan struct{})
		go func() {
			stop()
			close(stopped)
		}()
		time.Sleep(time.Millisecond) // until it is asked for
		close(view.free)
		<-stopped
		if seen != 2 {
			t.Fatalf("%d events of 2 were shown", seen)
		}
	}
}

func TestLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	long := strings.Repeat("x", 100)
	for _, test := range []struct {
		summary, content string
		want             []string
	}{
		{"nothing", "", nil},
		{"fewer than asked for", "a\nb\n", []string{"a", "b"}},
		{"more, the last one not ended", "a\nb\nc\nd", []string{"b", "c", "d"}},
		{"a long one", strings.Repeat(long+"\n", 1000), []string{long, long, long}},
		{"a line that is longer than what is read, and another", strings.Repeat("y", 20<<10) + "\nz\n", []string{"z"}},
		{"one such line", strings.Repeat("y", 20<<10), []string{strings.Repeat("y", 16<<10)}},
	} {
		if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := lastLines(path, 3)
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", test.summary, err, diff)
		}
	}
	if _, err := lastLines(path+"-none", 3); err == nil {
		t.Error("no error where there is no console")
	}
}

func TestShellWord(t *testing.T) {
	for text, want := range map[string]string{
		"out/boot/ssh_config": "out/boot/ssh_config",
		"":                    "''",
		"my clusters/it's":    `'my clusters/it'\''s'`,
		"größe":               "'größe'",
		"$HOME":               "'$HOME'",
	} {
		if got := shellWord(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

package power_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/hat"
	"hatchery/controller/power"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
)

// A world is a HAT with slots and nodes, and what a service sees of them.
type world struct {
	t          testing.TB
	state, run string // folders
	began      time.Time

	mu      sync.Mutex
	journal []string // what was done, and when
	events  []string
	on      map[int]bool
	hub     bool
	alert   bool
	fresh   bool // the HAT was not used since it got power
	set     bool // and was then
	stuck   map[int]error
	broken  error // of everything

	up, ready map[int]bool
	linksErr  error
	readyErr  error
	work      map[int]*power.Work
	driven    map[int]bool
}

func newWorld(t testing.TB) *world {
	dir := t.TempDir()
	return &world{
		t: t, state: filepath.Join(dir, "state", "service"), run: filepath.Join(dir, "run"), began: time.Now(),
		on: map[int]bool{}, hub: true, up: map[int]bool{}, ready: map[int]bool{}, work: map[int]*power.Work{}, driven: map[int]bool{}, stuck: map[int]error{},
	}
}

func (w *world) note(format string, values ...any) {
	w.journal = append(w.journal, time.Since(w.began).Round(time.Second).String()+" "+fmt.Sprintf(format, values...))
}

// did is the journal since it was asked for last.
func (w *world) did() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.journal, "\n")
	w.journal = nil
	return text
}

// told are the events since they were asked for last.
func (w *world) told() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.events, "\n")
	w.events = nil
	return text
}

// rebuilding is what an operation is at.
var rebuilding = &power.Work{What: "the rebuild rebuild-12 by anna is at work on it (write)", Remedy: "`hatchery rebuild --follow rebuild-12` shows it"}

func (w *world) change(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

// A fakeHAT is the world's.
type fakeHAT struct{ w *world }

func (f fakeHAT) Start(context.Context) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.w.broken == nil && f.w.fresh {
		f.w.fresh, f.w.set = false, true
	}
	return f.w.broken
}

func (f fakeHAT) Fresh() bool {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.set
}

func (f fakeHAT) turn(ctx context.Context, n int, on bool) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if n < 1 || n > hat.Slots {
		return hat.ErrNoSlot
	}
	if err := errors.Join(f.w.broken, f.w.stuck[n]); err != nil {
		return err
	}
	if f.w.on[n] != on {
		f.w.on[n] = on
		f.w.note("HAT %s %s", clusterctrl.SlotName(n), map[bool]string{true: "on", false: "off"}[on])
		if !on {
			f.w.up[n], f.w.ready[n] = false, false
		}
	}
	return nil
}

func (f fakeHAT) On(ctx context.Context, n int) error  { return f.turn(ctx, n, true) }
func (f fakeHAT) Off(ctx context.Context, n int) error { return f.turn(ctx, n, false) }

func (f fakeHAT) Powered(_ context.Context, n int) (bool, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if n < 1 || n > hat.Slots {
		return false, hat.ErrNoSlot
	}
	return f.w.on[n], f.w.broken
}

func (f fakeHAT) Hub(_ context.Context, on bool) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.hub = on
	f.w.note("hub %v", on)
	return f.w.broken
}

func (f fakeHAT) Alert(_ context.Context, on bool) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.alert = on
	f.w.note("alert %v", on)
	return f.w.broken
}

func (f fakeHAT) Status(context.Context) (hat.Status, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	hub := f.w.hub
	s := hat.Status{Version: "2.6", Slots: map[string]bool{}, Hub: &hub, Alert: f.w.alert}
	for n := 1; n <= hat.Slots; n++ {
		s.Slots[clusterctrl.SlotName(n)] = f.w.on[n]
	}
	return s, f.w.broken
}

// A fakeNetboot switches the slots that are driven.
type fakeNetboot struct{ w *world }

func (f fakeNetboot) Drives(n int) bool {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.driven[n]
}

func (f fakeNetboot) say(n int, what string) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.note("netboot %s %s", clusterctrl.SlotName(n), what)
	f.w.on[n] = what != "off"
}

func (f fakeNetboot) On(_ context.Context, n int) error    { f.say(n, "on"); return nil }
func (f fakeNetboot) Off(_ context.Context, n int) error   { f.say(n, "off"); return nil }
func (f fakeNetboot) Cycle(_ context.Context, n int) error { f.say(n, "cycle"); return nil }

// controllerNode is the node file of a controller with slots.
func controllerNode(slots ...int) *nodefile.Node {
	node := &nodefile.Node{Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "hammond"}
	node.Targets = append(node.Targets, nodefile.Target{Name: "controller", Hostname: "hammond", Address: clusterctrl.ControllerAddr()})
	for _, n := range slots {
		node.Targets = append(node.Targets, nodefile.Target{
			Name: clusterctrl.SlotName(n), Slot: n, Hostname: "node" + clusterctrl.SlotName(n), Address: clusterctrl.SlotAddr(n),
		})
	}
	return node
}

// options are those of a service of the world.
func (w *world) options() power.Options {
	set := func(m map[int]bool) map[int]bool {
		c := map[int]bool{}
		for n, is := range m {
			if is {
				c[n] = true
			}
		}
		return c
	}
	return power.Options{
		Node: controllerNode(1, 2, 3, 4), HAT: fakeHAT{w}, StateDir: w.state, RunDir: w.run, Boots: fakeNetboot{w},
		Links: func() (map[int]bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return set(w.up), w.linksErr
		},
		Ready: func() (map[int]bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return set(w.ready), w.readyErr
		},
		AtWork: func(n int) *power.Work {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.work[n]
		},
		Told: func(e controller.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e.Kind+": "+e.Detail)
		},
	}
}

func (w *world) service(change ...func(*power.Options)) *power.Service {
	w.t.Helper()
	o := w.options()
	for _, c := range change {
		c(&o)
	}
	s, err := power.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// running has a service run, and gives what ends it.
func (w *world) running(s *power.Service) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("the service ended: %v", err)
		}
	}
}

// reboot takes away what goes with the power.
func (w *world) reboot() {
	w.t.Helper()
	if err := os.RemoveAll(w.run); err != nil {
		w.t.Fatal(err)
	}
}

// held is the file of what is off by hand.
func (w *world) held() string {
	text, err := os.ReadFile(filepath.Join(w.state, "power.json"))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

package firstboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/firstboot/clock"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// A fakeDocker is an engine as far as it is asked whether it is there, and the
// units that start it.
type fakeDocker struct {
	socket string

	mu      sync.Mutex
	active  string
	reason  string
	refuses error // of StartUnit
	starts  []string
	server  *http.Server
}

func (d *fakeDocker) StartUnit(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.starts = append(d.starts, name)
	if d.refuses != nil {
		return d.refuses
	}
	if d.server != nil {
		return nil
	}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		return err
	}
	d.active = "active"
	d.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		if strings.HasSuffix(r.URL.Path, "/info") {
			_ = json.NewEncoder(w).Encode(map[string]any{"ServerVersion": "20.10.24", "Swarm": map[string]any{"LocalNodeState": "inactive"}})
		}
	})}
	go func() { _ = d.server.Serve(l) }()
	return nil
}

func (d *fakeDocker) StopUnit(context.Context, string) error {
	return errors.New("nobody stops it here")
}

func (d *fakeDocker) UnitState(context.Context, string) (active, reason string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.active, d.reason, nil
}

func TestDockerStep(t *testing.T) {
	for _, test := range []struct {
		summary string
		docker  func(*fakeDocker)
		detail  string
		err     string
		starts  int
		torn    bool // a power cut has left a file that Docker does not start with
		stopped bool // on purpose
	}{
		{summary: "it is stopped on purpose", stopped: true, docker: func(d *fakeDocker) { d.active = "inactive" }, detail: "stopped while what it has is changed"},
		{summary: "a file is torn", torn: true, docker: func(d *fakeDocker) { d.active = "failed" }, detail: "Docker 20.10.24", starts: 1},
		{
			summary: "it runs", docker: func(d *fakeDocker) { _ = d.StartUnit(context.Background(), "by systemd") },
			detail: "Docker 20.10.24", starts: 1,
		},
		{summary: "it is started", docker: func(d *fakeDocker) { d.active = "inactive" }, detail: "Docker 20.10.24", starts: 1},
		{
			summary: "it cannot be started", docker: func(d *fakeDocker) {
				d.active, d.refuses = "failed", errors.New("cannot start docker.service: failed (its process ended with exit code 1)")
			},
			err: "cannot start docker.service: failed (its process ended with exit code 1)", starts: 1,
		},
		{
			summary: "it ends before its socket answers", docker: func(d *fakeDocker) {
				d.active, d.reason, d.server = "failed", "its process was ended by signal 4 (illegal instruction)", &http.Server{}
			},
			err: "docker.service is failed: its process was ended by signal 4 (illegal instruction)", starts: 1,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			d := &fakeDocker{socket: filepath.Join(t.TempDir(), "docker.sock")}
			test.docker(d)
			t.Cleanup(func() {
				if d.server != nil {
					d.server.Close()
				}
			})
			engine, err := swarm.Open("unix://" + d.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			events := 0
			e := &environment{engine: engine, stopped: func() bool { return test.stopped }, event: func(Event, slog.Level, string, string) { events++ }}
			e.Units = d
			e.DockerRoot = t.TempDir()
			torn := filepath.Join(e.DockerRoot, "swarm", "docker-state.json")
			if test.torn {
				if err := os.MkdirAll(filepath.Dir(torn), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(torn, []byte(`{"LocalAddr`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			e.Intervals = Intervals{First: time.Millisecond}.orDefaults()
			step := e.dockerStep()
			var told []string
			detail, err := attempt(t.Context(), &step, func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) })
			if detail != test.detail || (err == nil) != (test.err == "") || (err != nil && !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%q, %v; want %q, %q", detail, err, test.detail, test.err)
			}
			if _, err := os.Lstat(torn); test.torn && (err == nil || events != 1) {
				t.Errorf("the torn file is in the way, or nobody was told (%d events)", events)
			}
			if len(d.starts) != test.starts {
				t.Errorf("started %q, want %d times", d.starts, test.starts)
			}
		})
	}
}

func TestCalling(t *testing.T) {
	e := &environment{}
	e.Intervals = Intervals{}.orDefaults()
	for _, test := range []struct {
		summary string
		err     error
		waits   string // "" for a failure
		after   time.Duration
	}{
		{summary: "the controller does not know the time", err: &enrol.Error{Code: enrol.ClockUntrusted, RetryAfterS: 7}, waits: "the controller's clock", after: 7 * time.Second},
		{summary: "there is no swarm yet", err: &enrol.Error{Code: enrol.SwarmNotReady, RetryAfterS: 3}, waits: "the controller's swarm", after: 3 * time.Second},
		{summary: "nothing listens there", err: errors.New("connection refused"), waits: "the controller's service", after: 5 * time.Second},
		{summary: "a number that is none", err: &enrol.Error{Code: enrol.SwarmNotReady, RetryAfterS: math.MaxInt}, waits: "the controller's swarm", after: time.Hour},
		{summary: "revoked", err: &enrol.Error{Code: enrol.Revoked, RetryAfterS: 60}},
		{summary: "an impostor", err: enrol.ErrImpostor},
		{summary: "another cluster's controller", err: enrol.ErrNotAccepted},
		{summary: "a time that cannot be", err: clock.ErrImplausible},
	} {
		got := e.calling(fmt.Errorf("cannot get the time: %w", test.err))
		var waiting *Waiting
		switch {
		case errors.As(got, &waiting) != (test.waits != ""):
			t.Errorf("%s: %v", test.summary, got)
		case waiting != nil && (waiting.For != test.waits || waiting.After != test.after):
			t.Errorf("%s: waits %v for %s", test.summary, waiting.After, waiting.For)
		case !errors.Is(got, test.err):
			t.Errorf("%s: the reason is lost: %v", test.summary, got)
		}
	}
}

// A step that asks for another go at every go has one waiting, however often
// something else woke it.
func TestAfterKeepsOneTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		woken := make(chan string, 100)
		e := &environment{wake: func(step string) { woken <- step }}
		for range 50 {
			e.after(time.Hour, "network")
		}
		for range 50 {
			e.after(20*time.Millisecond, "network")
		}
		if step := <-woken; step != "network" {
			t.Errorf("%s was woken", step)
		}
		time.Sleep(2 * time.Hour)
		if len(woken) > 0 {
			t.Errorf("woken %d times more", len(woken))
		}
	})
}

// TestSteadyStateWritesNothing: a state that stays as it is wears no card.
func TestSteadyStateWritesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var goes atomic.Int32
	states := 0
	l := &loop{
		intervals: Intervals{First: time.Microsecond, Most: time.Microsecond}.orDefaults(), previous: &State{},
		tell: func(announcement) {}, uptime: func() time.Duration { return time.Second },
		changed: func(s *State) { states++ },
		steps: []*step{
			{Step: Step{Name: "network", Every: time.Microsecond, Run: func(context.Context, Tell) (string, error) {
				n := goes.Add(1)
				if n == 200 {
					cancel()
				}
				return fmt.Sprintf("br0, no answer from port %d", n), nil
			}}},
			{Step: Step{Name: "link", Run: func(context.Context, Tell) (string, error) {
				return "", &Waiting{For: "the controller", After: time.Microsecond, Err: fmt.Errorf("no answer to port %d", goes.Load())}
			}}},
			{Step: Step{Name: "join", Needs: []string{"link"}, Run: func(context.Context, Tell) (string, error) { return "", nil }}},
		},
	}
	l.run(ctx)
	// Both begin, and both end; what is in between depends on who is first.
	if states > 5 {
		t.Errorf("%d goes gave %d states", goes.Load(), states)
	}
}

// An archive of images that Docker never takes does not keep the packages'
// triggers waiting.
func TestWhatIsLeftWaitsForNoBrokenImages(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"preload/images.tar", "packages/rest"} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	engine, err := swarm.Open("unix://" + filepath.Join(dir, "nobody.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	var woken []string
	e := &environment{
		Options: Options{StateDir: dir, RunDir: dir, Log: slog.New(slog.DiscardHandler)},
		engine:  engine, began: time.Now(), wake: func(step string) { woken = append(woken, step) },
	}
	steps := map[string]Step{}
	for _, s := range e.lastSteps() {
		steps[s.Name] = s
	}
	tell := func(string, ...any) {}
	waitsFor := func() string {
		_, err := steps["finish"].Run(t.Context(), tell)
		var waiting *Waiting
		if !errors.As(err, &waiting) {
			t.Fatalf("does not wait: %v", err)
		}
		return waiting.For
	}
	if got := waitsFor(); got != "the container images, which come first" {
		t.Errorf("before the images were tried it waits for %q", got)
	}
	// On one core, images would keep the swarm up; without one they wait no longer
	// than it may take.
	up := time.Now()
	e.engineUp.Store(&up)
	var waiting *Waiting
	if _, err := steps["images"].Run(t.Context(), tell); !errors.As(err, &waiting) || waiting.For != "the swarm, which comes first" || waiting.After > imagesWait {
		t.Fatalf("images that come before the swarm: %v", err)
	}
	up = up.Add(-imagesWait)
	for range 2 {
		if _, err := steps["images"].Run(t.Context(), tell); !errors.Is(err, swarm.ErrUnreachable) {
			t.Fatalf("the images were loaded: %v", err)
		}
	}
	if got := waitsFor(); got != "the swarm, which comes first" {
		t.Errorf("with images that cannot be loaded it waits for %q", got)
	}
	if want := []string{"finish"}; !slices.Equal(woken, want) {
		t.Errorf("woken: %q, want %q", woken, want)
	}
	woken = nil
	e.joined()
	e.joined()
	if want := []string{"images", "finish"}; !slices.Equal(woken, want) {
		t.Errorf("once in the swarm, woken: %q, want %q", woken, want)
	}
	if needs := steps["finish"].Needs; slices.Contains(needs, "images") {
		t.Errorf("finish needs %q", needs)
	}
}

// While what was kept is put into place, nobody starts the engine; when that ended,
// however it did, the engine's step goes on.
func TestNoEngineWhileItIsPutBack(t *testing.T) {
	d := &fakeDocker{socket: filepath.Join(t.TempDir(), "docker.sock"), active: "inactive"}
	engine, err := swarm.Open("unix://" + d.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	var woken []string
	e := &environment{
		ctx: t.Context(), engine: engine, identity: enroltest.NewCluster(t, "homelab").Slot(t, 1),
		node: &nodefile.Node{Cluster: "homelab", Slot: 1, Docker: true, Address: netip.MustParsePrefix("127.0.0.1/8"), ControllerAddr: netip.MustParseAddr("127.0.0.1")},
		wake: func(step string) { woken = append(woken, step) }, event: func(Event, slog.Level, string, string) {},
	}
	e.Units, e.StateDir, e.DockerRoot, e.Log, e.Now = d, t.TempDir(), t.TempDir(), slog.New(slog.DiscardHandler), time.Now
	e.Intervals = Intervals{}.orDefaults()
	e.SkipMachine, e.SkipGadget = true, true
	steps, _ := e.workerSteps()
	of := func(name string) *Step {
		i := slices.IndexFunc(steps, func(s Step) bool { return s.Name == name })
		return &steps[i]
	}
	tell := func(string, ...any) {}
	e.restoring.Store(true)
	if done, detail, err := of("docker").Check(t.Context()); !done || detail != stoppedOnPurpose || err != nil {
		t.Errorf("while it is put back: %v, %q, %v", done, detail, err)
	}
	if detail, err := of("docker").Run(t.Context(), tell); detail != stoppedOnPurpose || err != nil || len(d.starts) > 0 {
		t.Errorf("while it is put back: %q, %v, started %q", detail, err, d.starts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody answers
	if _, err := of("restore").Run(ctx, tell); err == nil {
		t.Error("nobody answered, and it is back")
	}
	if e.restoring.Load() || !slices.Contains(woken, "docker") {
		t.Errorf("the engine stays down; woken is %q", woken)
	}
	if done, _, _ := of("docker").Check(t.Context()); done {
		t.Error("an engine that is down is done")
	}
}

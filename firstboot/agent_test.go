//go:build linux

package firstboot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/firstboot"
	"hatchery/internal/enrol"
)

// agentVariable has the test's own program be an agent, for tests that kill it.
const agentVariable = "HATCHERY_TEST_AGENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(agentVariable); dir != "" {
		busyAgent(dir)
	}
	os.Exit(m.Run())
}

// soon is far more than anything here takes.
const soon = 2 * time.Minute

// An agent is one that runs in a test.
type agent struct {
	t    *testing.T
	dir  string
	log  *logBuffer
	stop func()
}

// start runs an agent with steps of the test's own, in no time between two
// tries.
func start(t *testing.T, dir string, change func(*firstboot.Options), steps ...firstboot.Step) *agent {
	t.Helper()
	a := &agent{t: t, dir: dir, log: new(logBuffer)}
	o := firstboot.Options{
		ConfigDir: dir, StateDir: dir, RunDir: dir, BootID: "boot-1", Version: "test",
		Consoles: []string{}, Log: slog.New(slog.NewTextHandler(a.log, nil)), Steps: steps,
		Intervals: firstboot.Intervals{First: time.Millisecond, Most: 10 * time.Millisecond, Check: 10 * time.Millisecond, Heartbeat: 10 * time.Millisecond},
	}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- firstboot.Run(ctx, o) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the agent ended with: %v", err)
			}
		case <-time.After(soon):
			t.Error("the agent does not end")
		}
	})
	t.Cleanup(a.stop)
	return a
}

// until waits for a state.json that is as wanted.
func (a *agent) until(what string, wanted func(*firstboot.State) bool) *firstboot.State {
	a.t.Helper()
	var last *firstboot.State
	for begin := time.Now(); time.Since(begin) < soon; time.Sleep(time.Millisecond) {
		s, err := firstboot.ReadState(a.dir)
		if err == nil && wanted(s) {
			return s
		}
		last = s
	}
	a.t.Fatalf("never was %s; the last state: %+v\n%s", what, last, a.log)
	return nil
}

func (a *agent) steady() *firstboot.State {
	a.t.Helper()
	return a.until("steady", func(s *firstboot.State) bool { return s.Step == firstboot.Steady })
}

// in says that a step is in a state.
func in(step, state string) func(*firstboot.State) bool {
	return func(s *firstboot.State) bool {
		of, ok := s.Of(step)
		return ok && of.State == state
	}
}

// A logBuffer is a log that is read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// done is a step that has nothing to do.
func done(name string, needs ...string) firstboot.Step {
	return firstboot.Step{Name: name, Needs: needs, Run: func(context.Context, firstboot.Tell) (string, error) { return "is there", nil }}
}

func TestStepsRunSideBySideAndAfterWhatTheyNeed(t *testing.T) {
	// Two that can only end together, and one that needs both.
	grow, packages := make(chan struct{}), make(chan struct{})
	meet := func(mine, other chan struct{}) func(context.Context, firstboot.Tell) (string, error) {
		return func(ctx context.Context, _ firstboot.Tell) (string, error) {
			close(mine)
			select {
			case <-other:
				return "met", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
	}
	var both atomic.Int32
	count := func(run func(context.Context, firstboot.Tell) (string, error)) func(context.Context, firstboot.Tell) (string, error) {
		return func(ctx context.Context, tell firstboot.Tell) (string, error) {
			defer both.Add(1)
			return run(ctx, tell)
		}
	}
	var before atomic.Int32
	a := start(t, t.TempDir(), nil,
		firstboot.Step{Name: "grow", Run: count(meet(grow, packages))},
		firstboot.Step{Name: "packages", Run: count(meet(packages, grow))},
		firstboot.Step{Name: "docker", Needs: []string{"grow", "packages"}, Run: func(context.Context, firstboot.Tell) (string, error) {
			before.Store(both.Load())
			return "Docker 20.10.24", nil
		}},
	)
	s := a.steady()
	if before.Load() != 2 {
		t.Errorf("docker ran when %d of the 2 steps that it needs had ended", before.Load())
	}
	if s.State != enrol.StateDone || s.Line() == "" {
		t.Errorf("the state of a steady node is %q", s.State)
	}
	for _, name := range []string{"grow", "packages", "docker"} {
		step, _ := s.Of(name)
		if step.FirstDone == nil || step.LastDone == nil || step.DoneAfter <= 0 || step.Tries != 0 {
			t.Errorf("%s: %+v", name, step)
		}
	}
}

func TestAStepIsTriedForEver(t *testing.T) {
	var tries atomic.Int32
	var seen atomic.Bool // that it fails, however late this test looks
	a := start(t, t.TempDir(), nil, firstboot.Step{Name: "link", Run: func(context.Context, firstboot.Tell) (string, error) {
		if n := tries.Add(1); n < 20 || !seen.Load() {
			return "", errors.New("there is no link to the controller")
		}
		return "usb0", nil
	}}, done("clock", "link"))
	s := a.until("failed", in("link", enrol.StateFailed))
	if link, _ := s.Of("link"); link.Tries == 0 || link.Detail != "there is no link to the controller" || s.Step != "link" {
		t.Errorf("a step that fails is %+v of %+v", link, s)
	}
	if clock, _ := s.Of("clock"); clock.State != enrol.StateWaiting || clock.Detail != "waits for link" {
		t.Errorf("a step that needs it is %+v", clock)
	}
	seen.Store(true)
	a.steady()
	a.stop()
	// The same failure again is no news.
	if n := strings.Count(a.log.String(), "link failed"); n != 1 {
		t.Errorf("the failure was told %d times:\n%s", n, a.log)
	}
}

func TestHowAStepEnds(t *testing.T) {
	later := errors.New("not so far")
	for _, test := range []struct {
		summary string
		step    func(ran *atomic.Int32) firstboot.Step
		state   string
		detail  string
		runs    bool
	}{
		{
			summary: "what is done already is not done again",
			step: func(ran *atomic.Int32) firstboot.Step {
				return firstboot.Step{Check: func(context.Context) (bool, string, error) { return true, "is there", nil }}
			},
			state: enrol.StateDone, detail: "is there",
		},
		{
			summary: "the check has the last word",
			step: func(ran *atomic.Int32) firstboot.Step {
				return firstboot.Step{Check: func(context.Context) (bool, string, error) { return false, "no address", nil }}
			},
			state: enrol.StateFailed, detail: "is not done although nothing failed: no address", runs: true,
		},
		{
			summary: "what was done is checked",
			step: func(ran *atomic.Int32) firstboot.Step {
				return firstboot.Step{Check: func(context.Context) (bool, string, error) { return ran.Load() > 0, "address", nil }}
			},
			state: enrol.StateDone, detail: "address", runs: true,
		},
		{
			summary: "a check that fails",
			step: func(ran *atomic.Int32) firstboot.Step {
				return firstboot.Step{Check: func(context.Context) (bool, string, error) { return false, "", errors.New("no socket") }}
			},
			state: enrol.StateFailed, detail: "no socket",
		},
		{
			summary: "a step that waits",
			step: func(ran *atomic.Int32) firstboot.Step {
				return firstboot.Step{Run: func(context.Context, firstboot.Tell) (string, error) {
					ran.Add(1)
					return "", fmt.Errorf("step: %w", &firstboot.Waiting{For: "the controller", Err: later})
				}}
			},
			state: enrol.StateWaiting, detail: "step: waits for the controller: not so far", runs: true,
		},
		{
			summary: "a step with a mistake",
			step: func(ran *atomic.Int32) firstboot.Step {
				return firstboot.Step{Run: func(context.Context, firstboot.Tell) (string, error) {
					ran.Add(1)
					var none []int
					return fmt.Sprint(none[ran.Load()]), nil
				}}
			},
			state: enrol.StateFailed, detail: "the agent has a mistake: runtime error: index out of range", runs: true,
		},
		{
			summary: "a step that takes too long",
			step: func(ran *atomic.Int32) firstboot.Step {
				return firstboot.Step{Limit: time.Millisecond, Run: func(ctx context.Context, _ firstboot.Tell) (string, error) {
					ran.Add(1)
					<-ctx.Done()
					return "", ctx.Err()
				}}
			},
			state: enrol.StateFailed, detail: "took more than 1ms", runs: true,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var ran atomic.Int32
			step := test.step(&ran)
			step.Name = "step"
			if step.Run == nil {
				step.Run = func(context.Context, firstboot.Tell) (string, error) {
					ran.Add(1)
					return "ran", nil
				}
			}
			a := start(t, t.TempDir(), nil, step)
			s := a.until(test.state+" with "+test.detail, func(s *firstboot.State) bool {
				of, _ := s.Of("step")
				return of.State == test.state && strings.Contains(of.Detail, test.detail)
			})
			if got := ran.Load() > 0; got != test.runs {
				t.Errorf("ran: %v, want %v; %+v", got, test.runs, s)
			}
		})
	}
}

func TestWhatIsDoneIsLookedAtAgain(t *testing.T) {
	var broken, clocks atomic.Int32
	a := start(t, t.TempDir(), nil,
		firstboot.Step{Name: "link", Every: time.Millisecond, Run: func(context.Context, firstboot.Tell) (string, error) {
			if broken.Load() == 1 {
				return "", errors.New("no carrier")
			}
			return "usb0", nil
		}},
		firstboot.Step{Name: "clock", Needs: []string{"link"}, Run: func(context.Context, firstboot.Tell) (string, error) {
			clocks.Add(1)
			return "right", nil
		}},
	)
	a.steady()
	if n := clocks.Load(); n != 1 {
		t.Errorf("the clock was set %d times, want once", n)
	}
	broken.Store(1)
	s := a.until("failed", in("link", enrol.StateFailed))
	if clock, _ := s.Of("clock"); clock.State != enrol.StateDone {
		t.Errorf("what was done before is undone by a link that is away: %+v", clock)
	}
	broken.Store(0)
	a.steady()
	a.until("done again", func(*firstboot.State) bool { return clocks.Load() == 2 })
	a.stop()
	if !strings.Contains(a.log.String(), firstboot.EventLost.ID) {
		t.Errorf("nobody was told that the link was lost:\n%s", a.log)
	}
}

func TestWakeUp(t *testing.T) {
	wakes := make(chan struct{})
	var runs atomic.Int32
	began, goOn := make(chan struct{}, 10), make(chan struct{})
	start(t, t.TempDir(), nil, firstboot.Step{
		Name: "link", // and never by itself
		Wake: func(context.Context) <-chan struct{} { return wakes },
		Run: func(context.Context, firstboot.Tell) (string, error) {
			runs.Add(1)
			began <- struct{}{}
			<-goOn
			return "", nil
		},
	})
	take(t, began)
	// While it runs, one wake-up and many have it run once more.
	for range 3 {
		give(t, wakes)
	}
	goOn <- struct{}{}
	take(t, began)
	goOn <- struct{}{}
	give(t, wakes)
	take(t, began)
	goOn <- struct{}{}
	if n := runs.Load(); n != 3 {
		t.Errorf("ran %d times, want 3", n)
	}
}

func take(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(soon):
		t.Fatal("nothing came")
	}
}

func give(t *testing.T, c chan<- struct{}) {
	t.Helper()
	select {
	case c <- struct{}{}:
	case <-time.After(soon):
		t.Fatal("nobody takes it")
	}
}

func TestStepsThatCannotBe(t *testing.T) {
	for _, test := range []struct {
		summary string
		steps   []firstboot.Step
		want    string
	}{
		{"a name twice", []firstboot.Step{done("link"), done("link")}, "step link is there twice"},
		{"a need that comes later", []firstboot.Step{done("clock", "link"), done("link")}, "step clock needs link, which does not come before it"},
		{"nothing to do", []firstboot.Step{{Name: "link"}}, "nothing to do"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			err := firstboot.Run(t.Context(), firstboot.Options{StateDir: t.TempDir(), Consoles: []string{}, Steps: test.steps})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestASecondAgent(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, nil, done("link")).steady()
	err := firstboot.Run(t.Context(), firstboot.Options{StateDir: dir, Consoles: []string{}, Steps: []firstboot.Step{done("link")}})
	if !errors.Is(err, firstboot.ErrRunning) {
		t.Errorf("a second agent ended with %v", err)
	}
}

func TestNoSecretIsTold(t *testing.T) {
	const token = "SWMTKN-1-0123456789abcdefghijklmnopqrstuvwxyz0123456789abcd-0123456789abcdefghijklmno"
	a := start(t, t.TempDir(), nil, firstboot.Step{Name: "join", Run: func(_ context.Context, tell firstboot.Tell) (string, error) {
		tell("joining with %s", token)
		return "", errors.New("the engine refuses " + token + " and \x1b[2J")
	}})
	a.until("failed", in("join", enrol.StateFailed))
	a.stop()
	state, err := os.ReadFile(filepath.Join(a.dir, firstboot.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, told := range []string{string(state), a.log.String()} {
		if strings.Contains(told, token[10:40]) || !strings.Contains(told, "[secret]") {
			t.Errorf("the token is told, or the error is not:\n%s", told)
		}
	}
}

func TestStateOverRuns(t *testing.T) {
	dir := t.TempDir()
	a := start(t, dir, nil, done("link"))
	first := a.steady()
	a.stop()
	b := start(t, dir, func(o *firstboot.Options) { o.BootID = "boot-2" }, done("link"), done("clock"))
	second := b.until("of the second boot", func(s *firstboot.State) bool { return s.BootID == "boot-2" && s.Step == firstboot.Steady })
	was, _ := first.Of("link")
	is, _ := second.Of("link")
	if !is.FirstDone.Equal(*was.FirstDone) || !is.LastDone.After(*was.LastDone) {
		t.Errorf("first %v, last %v; in the run before %v, %v", is.FirstDone, is.LastDone, was.FirstDone, was.LastDone)
	}
}

func TestABrokenStateIsSetAside(t *testing.T) {
	for _, test := range []struct{ summary, content string }{
		{"half a file", `{"format": 1, "steps": [{"na`},
		{"zeros, as a power cut leaves them", strings.Repeat("\x00", 512)},
		{"nothing", ""},
		{"another file", `{"version": "3"}`},
		{"other types", `{"format": 1, "steps": 3}`},
		{"far too much", `{"format": 1, "detail": "` + strings.Repeat("x", 2<<20) + `"}`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			place := filepath.Join(dir, firstboot.StateFile)
			if err := os.WriteFile(place, []byte(test.content), 0o644); err != nil {
				t.Fatal(err)
			}
			a := start(t, dir, nil, done("link"))
			a.steady()
			a.stop()
			aside, err := os.ReadFile(place + ".broken")
			if err != nil || string(aside) != test.content {
				t.Errorf("set aside: %d bytes, %v", len(aside), err)
			}
			if !strings.Contains(a.log.String(), firstboot.EventStateBroken.ID) {
				t.Errorf("nobody was told:\n%s", a.log)
			}
		})
	}
}

// A folder in its place (a botched restore) is set aside like a broken file,
// over what was set aside before.
func TestAFolderForAState(t *testing.T) {
	dir := t.TempDir()
	place := filepath.Join(dir, firstboot.StateFile)
	if err := os.MkdirAll(filepath.Join(place, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(place+".broken", []byte("from before"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := start(t, dir, nil, done("link"))
	a.steady()
	a.stop()
	if _, err := os.Stat(filepath.Join(place+".broken", "sub")); err != nil {
		t.Errorf("it is not set aside: %v", err)
	}
	if s, err := firstboot.ReadState(dir); err != nil || s.Step != firstboot.Steady {
		t.Errorf("the state after that: %+v, %v", s, err)
	}
}

// busyAgent is an agent whose state changes as fast as it can.
func busyAgent(dir string) {
	n := 0
	err := firstboot.Run(context.Background(), firstboot.Options{
		ConfigDir: dir, StateDir: dir, RunDir: dir, Consoles: []string{}, BootID: "boot-1", Log: slog.New(slog.DiscardHandler),
		Steps: []firstboot.Step{{Name: "busy", Every: time.Microsecond, Run: func(_ context.Context, tell firstboot.Tell) (string, error) {
			n++
			tell("at %d", n)
			return fmt.Sprint(strings.Repeat("x", n%900)), nil
		}}},
	})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestKilledAtAnyPoint(t *testing.T) {
	dir := t.TempDir()
	var first *time.Time
	// On a slow disk the step may be done in none of the first: later ones live longer.
	for i := 0; i < 15 || first == nil && i < 100; i++ {
		var stderr bytes.Buffer
		c := exec.CommandContext(t.Context(), os.Args[0])
		c.Env = append(os.Environ(), agentVariable+"="+dir)
		c.Stderr = &stderr
		begin := time.Now()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		// It must come to write at least once, then it is killed anywhere.
		for {
			s, err := firstboot.ReadState(dir)
			if err == nil && s.Updated.After(begin) {
				break
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("after kill %d: %v", i, err)
			}
			if time.Since(begin) > soon {
				t.Fatalf("the agent writes no state: %s", &stderr)
			}
			time.Sleep(time.Duration(i) * time.Millisecond)
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		s, err := firstboot.ReadState(dir)
		if err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		if busy, _ := s.Of("busy"); busy.FirstDone != nil {
			if first != nil && busy.FirstDone.Before(*first) {
				t.Errorf("first done at %v, before at %v", busy.FirstDone, first)
			}
			first = busy.FirstDone
		}
	}
	if first == nil {
		t.Error("the step was never done, so little was tested")
	}
	// What was left half-written is gone when the next one has begun.
	a := start(t, dir, nil, done("link"))
	a.until("of this agent", in("link", enrol.StateDone))
	a.stop()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"agent.lock", firstboot.StateFile}; !slices.Equal(names, want) {
		t.Errorf("the folder has %q, want %q", names, want)
	}
}

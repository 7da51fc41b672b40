package firstboot

import (
	"context"
	"math"
	"testing"
	"time"

	"hatchery/internal/enrol"
)

// A refuser refuses every report.
type refuser struct {
	code  enrol.Code
	calls chan struct{}
}

func (r *refuser) Status(context.Context, enrol.StatusReport) (*enrol.StatusAnswer, error) {
	select {
	case r.calls <- struct{}{}:
	default:
	}
	return nil, &enrol.Error{Code: r.code, Detail: "no"}
}

// A counter gives the same answer, or refusal, to every report.
type counter struct {
	answer *enrol.StatusAnswer
	err    error
	calls  chan struct{}
}

func (c *counter) Status(ctx context.Context, _ enrol.StatusReport) (*enrol.StatusAnswer, error) {
	select {
	case c.calls <- struct{}{}:
	case <-ctx.Done():
	}
	return c.answer, c.err
}

// Numbers that no controller means neither end the agent nor silence it: next_s
// that is more than a duration holds was one below 0.
func TestReportsWithNonsense(t *testing.T) {
	for _, seconds := range []int{math.MinInt, -1, 0, 9_223_372_037 & math.MaxInt, math.MaxInt} {
		c := &counter{answer: &enrol.StatusAnswer{NextS: seconds}, calls: make(chan struct{})}
		r := &reports{
			to: c, ready: func(*State) bool { return true }, swarm: noSwarm, tell: func(announcement) {},
			refused: func() {}, rejoin: func() {},
			intervals: Intervals{First: time.Millisecond, Most: time.Millisecond, Heartbeat: time.Millisecond}.orDefaults(),
			uptime:    func() time.Duration { return time.Second },
		}
		ctx, cancel := context.WithCancel(t.Context())
		states, done := make(chan *State, 1), make(chan struct{})
		states <- &State{}
		go func() { defer close(done); r.run(ctx, states) }()
		for range 3 {
			select {
			case <-c.calls:
			case <-time.After(time.Minute):
				t.Fatalf("after next_s %d nothing is reported any more", seconds)
			}
		}
		cancel()
		<-done
	}
}

// A step that is done is told at once, whatever was told a moment before: the
// controller makes a node that has joined active. Other news waits a little.
func TestReportsWhatIsDoneAtOnce(t *testing.T) {
	c := &counter{answer: &enrol.StatusAnswer{}, calls: make(chan struct{})}
	r := &reports{
		to: c, ready: func(*State) bool { return true }, swarm: noSwarm, tell: func(announcement) {},
		refused: func() {}, rejoin: func() {},
		intervals: Intervals{First: time.Hour, Heartbeat: time.Hour}.orDefaults(),
		uptime:    func() time.Duration { return time.Second },
	}
	ctx, cancel := context.WithCancel(t.Context())
	states, done := make(chan *State), make(chan struct{})
	go func() { defer close(done); r.run(ctx, states) }()
	states <- &State{Steps: []StepState{{Name: "docker", State: enrol.StateDone}}}
	<-c.calls
	states <- &State{Steps: []StepState{{Name: "docker", State: enrol.StateDone}, {Name: "join", State: enrol.StateRunning}}}
	select {
	case <-c.calls:
		t.Error("what is under way was told at once")
	case <-time.After(50 * time.Millisecond):
	}
	states <- &State{Steps: []StepState{{Name: "docker", State: enrol.StateDone}, {Name: "join", State: enrol.StateDone}}}
	<-c.calls
	cancel()
	<-done
}

// An engine that was killed just when its node was to tell that it has joined
// is back seconds later, and the controller waits for it: it is told then, not
// with the next heartbeat.
func TestReportsWhileTheEngineIsAway(t *testing.T) {
	for _, test := range []struct {
		summary string
		steps   []StepState
		engine  string
		soon    bool
	}{
		{"a member's engine is away", []StepState{{Name: "join", State: enrol.StateDone}}, "", true},
		{"a member's engine connects", []StepState{{Name: "join", State: enrol.StateDone}}, "pending", true},
		{"a member", []StepState{{Name: "join", State: enrol.StateDone}}, "active", false},
		{"no member yet", []StepState{{Name: "join", State: enrol.StateWaiting}}, "inactive", false},
		{"a node without Docker", nil, "", false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c := &counter{answer: &enrol.StatusAnswer{}, calls: make(chan struct{}, 1)}
			r := &reports{
				to: c, ready: func(*State) bool { return true }, tell: func(announcement) {},
				swarm:   func(context.Context) enrol.SwarmState { return enrol.SwarmState{State: test.engine} },
				refused: func() {}, rejoin: func() {},
				intervals: Intervals{First: time.Millisecond, Heartbeat: time.Hour}.orDefaults(),
				uptime:    func() time.Duration { return time.Second },
			}
			ctx, cancel := context.WithCancel(t.Context())
			states, done := make(chan *State, 1), make(chan struct{})
			states <- &State{Steps: test.steps}
			go func() { defer close(done); r.run(ctx, states) }()
			<-c.calls
			if test.soon {
				<-c.calls
			} else {
				select {
				case <-c.calls:
					t.Error("reported again long before the heartbeat")
				case <-time.After(50 * time.Millisecond):
				}
			}
			cancel()
			<-done
		})
	}
}

// A node that the controller shuts out while all of its steps are done has to
// look at its membership again: its engine does not notice.
func TestRefusedReports(t *testing.T) {
	for code, shutOut := range map[enrol.Code]bool{
		enrol.Revoked: true, enrol.StaleGeneration: true, enrol.UnknownSlot: true, enrol.WrongAddress: true, enrol.Clone: true,
		enrol.ClockUntrusted: false, enrol.SwarmNotReady: false, enrol.BadRequest: false, "too-many-calls": false,
	} {
		t.Run(string(code), func(t *testing.T) {
			controller := &refuser{code: code, calls: make(chan struct{})}
			refusals := 0
			r := &reports{
				to: controller, ready: func(*State) bool { return true }, swarm: noSwarm, tell: func(announcement) {},
				refused: func() { refusals++ }, rejoin: func() { t.Error("the controller did not ask for a join") },
				intervals: Intervals{First: time.Millisecond, Most: time.Millisecond, Heartbeat: time.Millisecond}.orDefaults(),
				uptime:    func() time.Duration { return time.Second },
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			states, done := make(chan *State, 1), make(chan struct{})
			states <- &State{}
			go func() { defer close(done); r.run(ctx, states) }()
			for range 3 {
				<-controller.calls // the one before has been dealt with
			}
			close(states)
			cancel()
			<-done
			if (refusals > 0) != shutOut {
				t.Errorf("%d refusals had the membership looked at", refusals)
			}
		})
	}
}

// A healthTeller takes every report, and tells of each what it has of the
// machine's health; it refuses the first of them.
type healthTeller struct {
	refuse bool
	got    chan *enrol.Health
}

func (h *healthTeller) Status(ctx context.Context, report enrol.StatusReport) (*enrol.StatusAnswer, error) {
	select {
	case h.got <- report.Health:
	case <-ctx.Done():
	}
	if h.refuse {
		h.refuse = false
		return nil, &enrol.Error{Code: enrol.SwarmNotReady}
	}
	return &enrol.StatusAnswer{}, nil
}

// Health is told with the first report that is taken, then when a finding is new
// or gone, and every now and then; numbers that only change are no news.
func TestReportsHealth(t *testing.T) {
	found := make(chan []enrol.Finding, 1)
	found <- nil
	var current []enrol.Finding
	h := &healthTeller{refuse: true, got: make(chan *enrol.Health)}
	r := &reports{
		to: h, ready: func(*State) bool { return true }, swarm: noSwarm, tell: func(announcement) {},
		refused: func() {}, rejoin: func() {},
		health: func(context.Context, *State) *enrol.Health {
			select {
			case current = <-found:
			default:
			}
			return &enrol.Health{Kernel: "6.12", Findings: current}
		},
		healthy:   healthReports{look: time.Nanosecond, every: time.Hour},
		intervals: Intervals{First: time.Millisecond, Most: time.Millisecond, Heartbeat: time.Millisecond}.orDefaults(),
		uptime:    func() time.Duration { return time.Second },
	}
	ctx, cancel := context.WithCancel(t.Context())
	states, done := make(chan *State, 1), make(chan struct{})
	states <- &State{}
	go func() { defer close(done); r.run(ctx, states) }()
	next := func() *enrol.Health {
		t.Helper()
		select {
		case got := <-h.got:
			return got
		case <-time.After(time.Minute):
			t.Fatal("nothing is reported")
			return nil
		}
	}
	// The first is refused, so the second has it again.
	for i := range 2 {
		if got := next(); got == nil || got.Kernel != "6.12" {
			t.Fatalf("report %d has %+v", i, got)
		}
	}
	for range 3 {
		if got := next(); got != nil {
			t.Fatalf("nothing is new, and it is told: %+v", got)
		}
	}
	changes := []struct {
		findings []enrol.Finding
		news     bool
	}{
		{[]enrol.Finding{{Code: "card-errors", Detail: "3 errors"}}, true},
		{[]enrol.Finding{{Code: "card-errors", Detail: "4 errors"}}, false},
		{[]enrol.Finding{{Code: "card-errors", Detail: "4 errors"}, {Code: "low-voltage"}}, true},
		{nil, true},
	}
	for _, change := range changes {
		found <- change.findings
		told := false
		for range 4 { // the first may have been under way
			got := next()
			told = told || got != nil && len(got.Findings) == len(change.findings)
		}
		if told != change.news {
			t.Errorf("%+v: told %v", change.findings, told)
		}
	}
	cancel()
	<-done

	again := healthReports{look: time.Hour, every: time.Nanosecond}
	looks := 0
	collect := func(context.Context, *State) *enrol.Health { looks++; return &enrol.Health{} }
	for range 3 {
		again.told(again.due(t.Context(), &State{}, collect))
		time.Sleep(time.Microsecond)
		if again.due(t.Context(), &State{}, collect) == nil {
			t.Error("after its time it is not told again")
		}
	}
	if looks != 1 {
		t.Errorf("%d looks", looks)
	}
}

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

package firstboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"hatchery/firstboot/clock"
	"hatchery/firstboot/grow"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// An environment is what the steps of a role stand on.
type environment struct {
	Options
	ctx   context.Context // of the agent: for what outlives a step's go
	node  *nodefile.Node
	wake  func(step string)
	event func(e Event, level slog.Level, step, text string)

	engine   *swarm.Engine
	identity *enrol.Identity
	client   *enrol.Client // nil on the controller
	ask      atomic.Bool   // the controller is to be asked about the swarm
	timed    bool          // the clock was right once in this run
	keeping  atomic.Bool   // backups are served
	// restoring: what was kept is put into the place of what the engine has.
	restoring atomic.Bool
	stopped   func() bool               // the engine is stopped on purpose; nil where nobody does
	member    atomic.Bool               // the swarm stands, as far as this node is part of it
	engineUp  atomic.Pointer[time.Time] // since when, the first time in this run
	// imagesTried says that loading the container images came to an end once
	// in this run, whichever.
	imagesTried atomic.Bool
	began       time.Time
	closers     []func()
	own         *lookout // at the controller's own machine; nil on a node in a slot

	mu     sync.Mutex
	timers map[string]*time.Timer // by step, of after
}

// steps gives the steps of the node's role, and what reports them to the
// controller; nil on the controller itself.
func (e *environment) steps() ([]Step, *reports, error) {
	e.began = time.Now()
	engine, err := swarm.Open(e.DockerHost)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot use Docker: %w", err)
	}
	e.engine = engine
	e.closers = append(e.closers, func() { engine.Close() })
	if e.identity, err = enrol.LoadIdentity(filepath.Join(e.ConfigDir, filepath.Base(enrol.IdentityDir))); err != nil {
		return nil, nil, err
	}
	if e.node.IsController() {
		e.own = e.lookout()
		return e.controllerSteps(), nil, nil
	}
	steps, report := e.workerSteps()
	report.health = e.health()
	return steps, report, nil
}

func (e *environment) close() {
	for _, c := range e.closers {
		c()
	}
}

// floor sets a clock that is before the image's build to that: without it not
// even certificates hold.
func (e *environment) floor() {
	o := e.clock()
	raised, err := clock.Raise(o)
	switch {
	case err != nil:
		e.event(EventClock, slog.LevelWarn, "", "the clock is before the image's build, and cannot be set: "+err.Error())
	case raised:
		e.event(EventClock, slog.LevelInfo, "", "the clock was before the image's build and is set to that: "+o.Floor.Format(time.RFC3339))
	}
}

func (e *environment) clock() clock.Options {
	return clock.Options{Floor: clock.Floor(e.node), SetTime: e.SetTime, Now: e.Now}
}

// after has a step gone through again after a while. The last word counts: a
// step that asks for that at every go has one go waiting, whatever else woke
// it meanwhile.
func (e *environment) after(d time.Duration, step string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timers == nil {
		e.timers = make(map[string]*time.Timer)
	}
	if t := e.timers[step]; t != nil {
		t.Stop()
	}
	e.timers[step] = time.AfterFunc(spread(d), func() { e.wake(step) })
}

// growStep gives the root the whole card.
func (e *environment) growStep() Step {
	return Step{Name: "grow", Run: func(ctx context.Context, tell Tell) (string, error) {
		status, err := grow.Ensure(ctx, grow.Options{Log: e.Log})
		return status.String(), err
	}}
}

// joined notes that the swarm stands, as far as this node is part of it, and
// has done what waited for that.
func (e *environment) joined() {
	if !e.member.Swap(true) {
		e.wake("images")
		e.wake("finish")
	}
}

// sleep says whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// calling makes an error of a call to the controller one of waiting, where it
// tells that the controller is not so far yet; what a person has to see to
// stays a failure.
func (e *environment) calling(err error) error {
	var refused *enrol.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		after := refused.RetryAfter()
		switch refused.Code {
		case enrol.ClockUntrusted:
			return &Waiting{For: "the controller's clock", After: after, Err: err}
		case enrol.SwarmNotReady:
			return &Waiting{For: "the controller's swarm", After: after, Err: err}
		}
		return err
	case errors.Is(err, enrol.ErrImpostor), errors.Is(err, enrol.ErrNotAccepted), errors.Is(err, enrol.ErrCertificateTime), errors.Is(err, clock.ErrImplausible):
		return err
	}
	return &Waiting{For: "the controller's service", After: 5 * e.Intervals.First, Err: err}
}

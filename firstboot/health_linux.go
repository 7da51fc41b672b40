package firstboot

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// clockGrace is how long after the agent's start the clock may be unset before
// that is a finding: the controller may be later than its nodes.
const clockGrace = 5 * time.Minute

// health gives what the machine finds of itself, for reports.
func (e *environment) health() func(context.Context, *State) *enrol.Health {
	var state *State // as of the look that is under way
	o := health.Options{
		Node: e.node, Now: e.Now,
		Clock: func(context.Context) string {
			clock, known := state.Of("clock")
			if !known || clock.State == enrol.StateDone || clock.DoneAfter > 0 || time.Since(e.began) < clockGrace {
				return ""
			}
			if e.node.IsController() {
				return "the controller does not trust its clock: " + clock.Detail
			}
			return "the controller has not set this node's clock: " + clock.Detail
		},
	}
	if e.node.Docker {
		o.Engine = func(ctx context.Context) (string, error) {
			info, err := e.engine.Info(ctx)
			return info.Engine, err
		}
		o.Certificate = func() (before, after time.Time, err error) {
			_, _, _, before, after, err = swarm.CertificateOf(e.DockerRoot)
			return before, after, err
		}
	}
	collector := health.New(o)
	e.closers = append(e.closers, collector.Close)
	return func(ctx context.Context, s *State) *enrol.Health {
		state = s
		return collector.Collect(ctx)
	}
}

// A lookout looks at the controller's own machine, and leaves for its service what it
// finds: it reports to nobody.
type lookout struct {
	collect func(context.Context, *State) *enrol.Health
	path    string
	every   time.Duration // 0: health.LookEvery
	tell    func(announcement)
}

func (e *environment) lookout() *lookout {
	return &lookout{collect: e.health(), path: filepath.Join(e.RunDir, health.File)}
}

// run goes on until states is closed or ctx ends.
func (l *lookout) run(ctx context.Context, states <-chan *State) {
	every := l.every
	if every <= 0 {
		every = health.LookEvery
	}
	beat := time.NewTicker(every)
	defer beat.Stop()
	var state *State
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case s, open := <-states:
			if !open {
				return
			}
			first := state == nil
			if state = s; !first {
				continue
			}
		case <-beat.C:
			if state == nil {
				continue
			}
		}
		look, cancel := context.WithTimeout(ctx, healthLimit)
		found := l.collect(look, state)
		cancel()
		now := ""
		err := os.MkdirAll(filepath.Dir(l.path), 0o755)
		if err == nil {
			err = health.Write(l.path, found)
		}
		if err != nil {
			now = err.Error()
		}
		if now != told && now != "" {
			l.tell(announcement{event: EventProblem, level: slog.LevelWarn, text: now})
		}
		told = now
	}
}

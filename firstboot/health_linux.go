package firstboot

import (
	"context"
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

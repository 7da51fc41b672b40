package firstboot

import (
	"context"
	"time"

	"hatchery/firstboot/clock"
)

// controllerSteps are the steps of the controller.
func (e *environment) controllerSteps() []Step {
	e.floor()
	steps := []Step{e.trustStep()}
	if !e.SkipMachine {
		steps = append(steps, e.growStep())
	}
	if e.node.Docker {
		steps = append(steps, e.dockerStep())
	}
	return steps
}

// trustStep waits until the controller knows the time: all nodes go by it.
func (e *environment) trustStep() Step {
	trust := clock.NewTrust(e.node)
	trust.Now = e.Now
	if e.TrustClock {
		trust.Synchronized = func() (bool, error) { return true, nil }
	}
	return Step{
		Name: "clock", Every: e.Intervals.Time,
		Run: func(ctx context.Context, tell Tell) (string, error) {
			source, ok, err := trust.Trusted(ctx)
			if err != nil {
				return "", err
			}
			if !ok {
				return "", &Waiting{For: "a time server to set the clock (or swarm: {offline: true} in cluster.yaml)", After: min(5*time.Second, 5*e.Intervals.First)}
			}
			return "trusted, by " + source, nil
		},
	}
}

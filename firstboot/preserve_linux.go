package firstboot

import (
	"context"
	"errors"

	"hatchery/firstboot/founding"
	"hatchery/firstboot/preserve"
	"hatchery/internal/enrol"
)

// preserver keeps what outlives the node's root.
func (e *environment) preserver() *preserve.Keeper {
	o := preserve.Options{
		Node: e.node, ConfigDir: e.ConfigDir, StateDir: e.StateDir, DockerRoot: e.DockerRoot,
		HTTP: e.client.HTTP, URL: e.client.URL, Log: e.Log,
	}
	if e.node.Docker {
		o.Uses = e.engine.Uses
		o.StopEngine = func(ctx context.Context) error {
			// The step that sees to the engine leaves it until all is in place.
			e.restoring.Store(true)
			return e.stopEngine(ctx)
		}
	}
	return preserve.New(o)
}

// stopEngine stops an engine that runs, and what would start it again.
func (e *environment) stopEngine(ctx context.Context) error {
	units := e.EngineUnits
	if units == nil {
		units = founding.EngineUnits
	}
	for _, unit := range units {
		active, _, err := e.Units.UnitState(ctx, unit)
		if err != nil {
			return err
		}
		if active == "inactive" || active == "failed" {
			continue
		}
		if err := e.Units.StopUnit(ctx, unit); err != nil {
			return err
		}
	}
	return nil
}

// restoreStep puts back what the controller has kept of the root before this one. The
// swarm comes after that, so that no task finds its volume empty; the engine need
// not wait, and is stopped for it.
func (e *environment) restoreStep(k *preserve.Keeper) Step {
	// A card whose certificate is not let in any more, ever, gets nothing back, and is told
	// why by the step that joins. Whatever else it is refused with may be over in a moment
	// (a port that the bridge has not learned), or when somebody has seen to it.
	refused := ""
	return Step{
		Name: "restore", Needs: []string{"link", "clock"}, Limit: packagesLimit,
		Check: func(context.Context) (bool, string, error) {
			if refused != "" {
				return true, refused, nil
			}
			return k.Done()
		},
		Run: func(ctx context.Context, tell Tell) (string, error) {
			err := k.Restore(ctx, tell)
			e.restoring.Store(false)
			if e.node.Docker {
				// It may have been stopped.
				e.wake("docker")
			}
			if why := (*enrol.Error)(nil); errors.As(err, &why) && (why.Code == enrol.Revoked || why.Code == enrol.StaleGeneration) {
				refused = "nothing is given back: " + why.Error()
				return refused, nil
			}
			if errors.Is(err, preserve.ErrCall) {
				err = e.calling(err)
			}
			return "", err
		},
	}
}

package firstboot

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hatchery/firstboot/bridge"
	"hatchery/firstboot/clock"
	"hatchery/firstboot/founding"
	"hatchery/internal/bridgeport"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarmbackup"
)

// controllerSteps are the steps of the controller.
func (e *environment) controllerSteps() []Step {
	e.floor()
	trust := clock.NewTrust(e.node)
	trust.Now = e.Now
	if e.TrustClock {
		trust.Synchronized = func() (bool, error) { return true, nil }
	}
	steps := []Step{e.networkStep(), e.trustStep(trust)}
	if !e.SkipMachine {
		steps = append(steps, e.growStep())
	}
	if e.node.Docker {
		steps = append(steps, e.dockerSteps()...)
		steps = append(steps, e.swarmStep(trust))
		steps = append(steps, e.lastSteps()...)
	}
	return steps
}

// networkStep is the slots' network. What is wrong with it beside br0 itself
// (no name server, no rules) keeps nobody from joining: it is told, and looked
// at again soon.
func (e *environment) networkStep() Step {
	options := e.Bridge
	if options.RunDir == "" {
		options.RunDir = e.RunDir
	}
	if options.Units == nil {
		options.Units = e.Units
	}
	if options.Log == nil {
		options.Log = e.Log
	}
	if options.Early == nil {
		options.Early = e.early
	}
	told := ""
	return Step{
		Name: "network", Every: e.Intervals.Check,
		Wake: func(ctx context.Context) <-chan struct{} { return bridge.Watch(ctx, e.node, options) },
		Run: func(ctx context.Context, tell Tell) (string, error) {
			status, err := bridge.Ensure(ctx, e.node, options)
			if err != nil {
				return "", err
			}
			if len(status.Problems)+len(status.Awaited) > 0 {
				e.after(15*e.Intervals.First, "network")
			}
			if now := gist(strings.Join(status.Problems, "\n")); now != told {
				told = now
				for _, problem := range status.Problems {
					e.event(EventProblem, slog.LevelWarn, "network", problem)
				}
			}
			return status.String(), nil
		},
	}
}

// How long a controller may come up: packages take a Zero minutes at the first
// boot.
const (
	earlyAlone  = 2 * time.Minute
	earlyDocker = 15 * time.Minute
)

// early says that the controller still comes up: until its engine was up once
// in this run, where it has one.
func (e *environment) early() bool {
	most := earlyAlone
	if e.node.Docker {
		if e.engineUp.Load() != nil {
			return false
		}
		most = earlyDocker
	}
	return time.Since(e.began) < most
}

// trustStep waits until the controller knows the time: all nodes go by it.
func (e *environment) trustStep(trust *clock.Trust) Step {
	return Step{
		Name: "clock", Every: e.Intervals.Time,
		Run: func(ctx context.Context, tell Tell) (string, error) {
			source, ok, err := trust.Trusted(ctx)
			if err != nil {
				return "", err
			}
			if !ok {
				return "", &Waiting{For: "a time server to set the clock (or swarm: {offline: true} in cluster.yaml)", After: 5 * e.Intervals.First}
			}
			return "trusted: " + source, nil
		},
	}
}

// swarmStep is the swarm itself: kept, made, or got back from what the nodes
// keep.
func (e *environment) swarmStep(trust *clock.Trust) Step {
	f := &founding.Founding{
		Engine: e.engine, Units: e.Units, EngineUnits: e.EngineUnits, Service: ServiceUnit,
		Backups: &founding.Keepers{
			Client:       &swarmbackup.Client{Identity: e.identity},
			Identity:     e.identity,
			Folder:       e.StateDir,
			ServiceState: filepath.Join(e.StateDir, nodefile.ServiceDir),
			ByHand:       filepath.Join(e.StateDir, filepath.FromSlash(founding.HandFile)),
		},
		Clock: trust.Trusted, Connected: connected, Others: e.otherManagers(), BootID: e.BootID, AgentVersion: e.Version,
		Node: e.node, DockerRoot: e.DockerRoot, StateDir: e.StateDir, Waits: e.Founding, Log: e.Log,
	}
	e.stopped = f.EngineStopped
	return Step{
		Name: "swarm", Needs: []string{"network", "clock", "docker"}, Every: e.Intervals.Check, Limit: 30 * time.Minute,
		Run: func(ctx context.Context, tell Tell) (string, error) {
			f.Tell = tell
			result, err := f.Reconcile(ctx)
			if err != nil {
				return "", err
			}
			e.joined()
			return founded(result), nil
		},
	}
}

func founded(r founding.Result) string {
	text := fmt.Sprintf("manager %s of swarm %s", r.NodeID, r.ClusterID)
	switch r.How {
	case founding.Recovered:
		text += ", recovered from " + r.Backup
	case founding.Made, founding.Reopened:
		text += ", " + r.How
	}
	if len(r.SetAside) > 0 {
		text += "; set aside: " + strings.Join(r.SetAside, ", ")
	}
	return text
}

// connected gives the slots at whose links somebody is.
func connected(ctx context.Context) ([]int, error) {
	ports, err := bridgeport.Ports(ctx)
	var slots []int
	for _, p := range ports {
		if p.Carrier && !slices.Contains(slots, p.Slot) {
			slots = append(slots, p.Slot)
		}
	}
	return slots, err
}

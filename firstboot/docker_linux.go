package firstboot

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"hatchery/firstboot/member"
	"hatchery/firstboot/packages"
)

// How long packages may take, on a slow card and a slow processor.
const packagesLimit = 4 * time.Hour

// lastWaits is how long what is left of the packages waits for the swarm: on
// a node with one core it would keep that up.
const lastWaits = 5 * time.Minute

// imagesWait is how long the container images do, once the engine is up. A
// swarm that is not there by then may be long in coming.
const imagesWait = time.Minute

// dockerSteps are those from the packages to an engine that answers.
func (e *environment) dockerSteps() []Step {
	if e.SkipMachine {
		return []Step{e.dockerStep()}
	}
	return []Step{
		{Name: "packages", Limit: packagesLimit, Run: func(ctx context.Context, tell Tell) (string, error) {
			left, err := packages.Look(e.packages(nil))
			if err != nil {
				return "", err
			}
			if !left.Configure {
				return "configured", nil
			}
			return "configured", packages.Configure(ctx, e.packages(tell))
		}},
		e.dockerStep("packages"),
	}
}

// lastSteps are what is left for when the engine is up and in the swarm: its
// images, and last what nobody waits for.
func (e *environment) lastSteps() []Step {
	if e.SkipMachine {
		return nil
	}
	return []Step{
		{Name: "images", Needs: []string{"docker"}, Limit: packagesLimit, Run: func(ctx context.Context, tell Tell) (string, error) {
			left, err := packages.Look(e.packages(nil))
			if err != nil {
				return "", err
			}
			if up := e.engineUp.Load(); left.Load && up != nil && !e.member.Load() && time.Since(*up) < imagesWait {
				return "", &Waiting{For: "the swarm, which comes first", After: imagesWait - time.Since(*up)}
			}
			// An archive that Docker does not take must not hold up what is left
			// of the packages for ever.
			defer func() {
				if !e.imagesTried.Swap(true) {
					e.wake("finish")
				}
			}()
			if !left.Load {
				return "loaded", nil
			}
			return "loaded", packages.Load(ctx, e.packages(tell), e.engine, func(done, total int64) {
				tell("loading images: %d of %d MiB", done>>20, total>>20)
			})
		}},
		{Name: "finish", Needs: []string{"docker"}, Limit: packagesLimit, Run: func(ctx context.Context, tell Tell) (string, error) {
			left, err := packages.Look(e.packages(nil))
			if err != nil {
				return "", err
			}
			if !left.Finish {
				return "nothing is left to configure", nil
			}
			if !e.imagesTried.Load() {
				return "", &Waiting{For: "the container images, which come first", After: lastWaits / 5}
			}
			if !e.member.Load() && time.Since(e.began) < lastWaits {
				return "", &Waiting{For: "the swarm, which comes first", After: lastWaits / 5}
			}
			return "nothing is left to configure", packages.Finish(ctx, e.packages(tell))
		}},
	}
}

func (e *environment) packages(tell Tell) packages.Options {
	o := packages.Options{StateDir: e.StateDir, Calls: filepath.Join(e.RunDir, "later"), Log: e.Log}
	// The engine is the next step's, with all that it needs.
	o.Started = []string{"containerd.service", "docker.socket", DockerUnit}
	if tell != nil {
		o.Tell = func(what string) { tell("%s", what) }
	}
	return o
}

// stoppedOnPurpose is how an engine stands that is not to be started now.
const stoppedOnPurpose = "stopped while what it has is changed"

// dockerStep starts the engine, where systemd has not, and waits until it
// answers.
func (e *environment) dockerStep(needs ...string) Step {
	return Step{
		Name: "docker", Needs: needs, Every: e.Intervals.Check,
		Check: func(ctx context.Context) (bool, string, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if e.stopped != nil && e.stopped() {
				return true, stoppedOnPurpose, nil
			}
			info, err := e.engine.Info(ctx)
			if err != nil {
				return false, err.Error(), nil
			}
			now := time.Now()
			e.engineUp.CompareAndSwap(nil, &now)
			return true, "Docker " + info.Engine, nil
		},
		Run: func(ctx context.Context, tell Tell) (string, error) {
			active, reason, err := e.Units.UnitState(ctx, DockerUnit)
			if err != nil {
				return "", err
			}
			tell("%s is %s", DockerUnit, strings.TrimSuffix(active+", "+reason, ", "))
			if active == "failed" || active == "inactive" {
				aside, err := member.Unblock(e.DockerRoot)
				for _, name := range aside {
					e.event(EventProblem, slog.LevelWarn, "docker", "a power cut has left a file that Docker does not start with; it is set aside: "+name)
				}
				if err != nil {
					return "", err
				}
			}
			if e.stopped != nil && e.stopped() {
				return stoppedOnPurpose, nil // since it was looked at
			}
			if err := e.Units.StartUnit(ctx, DockerUnit); err != nil {
				return "", err
			}
			// The unit may be up before its socket answers.
			for {
				err := e.engine.Ping(ctx)
				if err == nil {
					return "", nil
				}
				if !sleep(ctx, e.Intervals.First) {
					return "", fmt.Errorf("%s runs, but: %w", DockerUnit, err)
				}
				if active, reason, uerr := e.Units.UnitState(ctx, DockerUnit); uerr == nil && (active == "failed" || active == "inactive") {
					return "", fmt.Errorf("%s is %s: %s", DockerUnit, active, reason)
				}
			}
		},
	}
}

package serving

import (
	"context"
	"os"

	"hatchery/controller"
	"hatchery/internal/swarm"
)

// unfinished is the engine, whose swarm is not active as long as the agent is
// at work on it (package founding): a node that joined in between would be
// given a certificate by a manager that is about to be started again, or join a
// swarm that is about to be set aside.
type unfinished struct {
	controller.Engine
	plan string // the agent's founding.json, which is there as long
}

// Info is the engine's.
func (u *unfinished) Info(ctx context.Context) (swarm.Info, error) {
	info, err := u.Engine.Info(ctx)
	if err != nil || info.State != swarm.Active {
		return info, err
	}
	if _, err := os.Lstat(u.plan); err == nil {
		info.State, info.Error = swarm.Pending, "the controller's agent is at work on it (`/usr/lib/hatchery/firstboot status` says how far it is)"
	}
	return info, nil
}

package swarm

import (
	"context"

	"github.com/docker/docker/api/types/swarm"
)

// RotateManagerToken makes the manager token worthless and a new one. Managers
// that have joined stay.
func (e *Engine) RotateManagerToken(ctx context.Context) error {
	return e.updateCluster(ctx, "rotating the swarm's manager token", func(*swarm.Spec) swarm.UpdateFlags {
		return swarm.UpdateFlags{RotateManagerToken: true}
	})
}

// Demote makes a manager a worker, which does not count for the majority any
// more. The engine refuses it where the others would have none then. It takes a
// moment after this has returned: until then [Engine.RemoveNode] is refused.
func (e *Engine) Demote(ctx context.Context, id string, version uint64) error {
	doing := "demoting manager " + id
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	n, err := e.inspect(limited, id)
	if err != nil {
		return failed(ctx, doing, err)
	}
	n.Spec.Role = swarm.NodeRoleWorker
	return failed(ctx, doing, e.client.NodeUpdate(limited, id, swarm.Version{Index: version}, n.Spec))
}

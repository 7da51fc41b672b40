package swarm

import (
	"context"

	"github.com/docker/docker/api/types/swarm"
)

// A ServiceEntry is a service as the swarm has it, whole.
type ServiceEntry struct {
	ID      string
	Version uint64 // for UpdateService
	Spec    swarm.ServiceSpec
	// Previous is what it may yet go back to; nil if it does not.
	Previous *swarm.ServiceSpec
	// Running and Desired are numbers of tasks, as Service has them.
	Running, Desired int
}

// ServiceEntries are the swarm's services, in no order. Only a manager can tell.
func (e *Engine) ServiceEntries(ctx context.Context) ([]ServiceEntry, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	list, err := e.client.ServiceList(limited, swarm.ServiceListOptions{Status: true})
	if err != nil {
		return nil, failed(ctx, "listing the swarm's services", err)
	}
	entries := make([]ServiceEntry, len(list))
	for i, s := range list {
		entries[i] = ServiceEntry{ID: s.ID, Version: s.Version.Index, Spec: s.Spec}
		// One whose update has come to its end goes back only when somebody says so.
		if u := s.UpdateStatus; u != nil && u.State != swarm.UpdateStateCompleted && u.State != swarm.UpdateStateRollbackCompleted {
			entries[i].Previous = s.PreviousSpec
		}
		if s.ServiceStatus != nil {
			entries[i].Running, entries[i].Desired = int(s.ServiceStatus.RunningTasks), int(s.ServiceStatus.DesiredTasks)
		}
	}
	return entries, nil
}

// CreateService makes a service, and gives its ID: ErrExists if there is one of its
// name. No registry is asked which image its name stands for: each node does that.
func (e *Engine) CreateService(ctx context.Context, spec swarm.ServiceSpec) (string, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	made, err := e.client.ServiceCreate(limited, spec, swarm.ServiceCreateOptions{})
	return made.ID, failed(ctx, "making the service "+spec.Name, err)
}

// UpdateService has a service be otherwise: ErrConflict if it is no longer of that
// version.
func (e *Engine) UpdateService(ctx context.Context, id string, version uint64, spec swarm.ServiceSpec) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	_, err := e.client.ServiceUpdate(limited, id, swarm.Version{Index: version}, spec, swarm.ServiceUpdateOptions{})
	return failed(ctx, "changing the service "+spec.Name, err)
}

// RemoveService removes a service by its ID, and its tasks.
func (e *Engine) RemoveService(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	return failed(ctx, "removing the service "+id, e.client.ServiceRemove(limited, id))
}

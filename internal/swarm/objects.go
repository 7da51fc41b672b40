package swarm

import (
	"context"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
)

// An Object is a secret or a config of the swarm, without what is in it: nothing of
// it can be changed but its labels.
type Object struct {
	ID      string
	Name    string
	Labels  map[string]string
	Created time.Time
}

// Secrets are the swarm's secrets, in no order. Only a manager can tell.
func (e *Engine) Secrets(ctx context.Context) ([]Object, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	list, err := e.client.SecretList(limited, swarm.SecretListOptions{})
	if err != nil {
		return nil, failed(ctx, "listing the swarm's secrets", err)
	}
	objects := make([]Object, len(list))
	for i, s := range list {
		objects[i] = Object{s.ID, s.Spec.Name, s.Spec.Labels, s.CreatedAt}
	}
	return objects, nil
}

// CreateSecret makes a secret, and gives its ID: ErrExists if there is one of its
// name.
func (e *Engine) CreateSecret(ctx context.Context, spec swarm.SecretSpec) (string, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	made, err := e.client.SecretCreate(limited, spec)
	return made.ID, failed(ctx, "making the secret "+spec.Name, err)
}

// RemoveSecret removes a secret by its ID: ErrInUse while a service has it.
func (e *Engine) RemoveSecret(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	return failed(ctx, "removing the secret "+id, e.client.SecretRemove(limited, id))
}

// Configs are the swarm's configs, in no order. Only a manager can tell.
func (e *Engine) Configs(ctx context.Context) ([]Object, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	list, err := e.client.ConfigList(limited, swarm.ConfigListOptions{})
	if err != nil {
		return nil, failed(ctx, "listing the swarm's configs", err)
	}
	objects := make([]Object, len(list))
	for i, c := range list {
		objects[i] = Object{c.ID, c.Spec.Name, c.Spec.Labels, c.CreatedAt}
	}
	return objects, nil
}

// CreateConfig makes a config, and gives its ID: ErrExists if there is one of its
// name.
func (e *Engine) CreateConfig(ctx context.Context, spec swarm.ConfigSpec) (string, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	made, err := e.client.ConfigCreate(limited, spec)
	return made.ID, failed(ctx, "making the config "+spec.Name, err)
}

// RemoveConfig removes a config by its ID: ErrInUse while a service has it.
func (e *Engine) RemoveConfig(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	return failed(ctx, "removing the config "+id, e.client.ConfigRemove(limited, id))
}

// A SharedNetwork is a network of the whole swarm.
type SharedNetwork struct {
	ID      string
	Name    string
	Options network.CreateOptions // as far as the engine tells it
}

// SharedNetworks are the networks of the whole swarm, in no order.
func (e *Engine) SharedNetworks(ctx context.Context) ([]SharedNetwork, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	list, err := e.client.NetworkList(limited, network.ListOptions{Filters: filters.NewArgs(filters.Arg("scope", "swarm"))})
	if err != nil {
		return nil, failed(ctx, "listing the swarm's networks", err)
	}
	networks := make([]SharedNetwork, len(list))
	for i, n := range list {
		ipam := n.IPAM
		networks[i] = SharedNetwork{n.ID, n.Name, network.CreateOptions{
			Driver: n.Driver, Scope: n.Scope, Internal: n.Internal, Attachable: n.Attachable, Ingress: n.Ingress,
			IPAM: &ipam, Options: n.Options, Labels: n.Labels,
		}}
	}
	return networks, nil
}

// CreateNetwork makes a network, and gives its ID: ErrExists if the swarm has one of
// its name.
func (e *Engine) CreateNetwork(ctx context.Context, name string, o network.CreateOptions) (string, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	made, err := e.client.NetworkCreate(limited, name, o)
	return made.ID, failed(ctx, "making the network "+name, err)
}

// RemoveNetwork removes a network by its ID: ErrInUse while something is on it.
func (e *Engine) RemoveNetwork(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	return failed(ctx, "removing the network "+id, e.client.NetworkRemove(limited, id))
}

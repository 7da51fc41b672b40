package workload

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/docker/docker/api/types/network"
	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// An Engine is the controller's Docker Engine, as far as workloads need it;
// *swarm.Engine is one.
type Engine interface {
	Info(ctx context.Context) (swarm.Info, error)
	Nodes(ctx context.Context) ([]swarm.Node, error)
	Events(ctx context.Context) (<-chan struct{}, error)

	SharedNetworks(ctx context.Context) ([]swarm.SharedNetwork, error)
	CreateNetwork(ctx context.Context, name string, o network.CreateOptions) (id string, err error)
	RemoveNetwork(ctx context.Context, id string) error

	Secrets(ctx context.Context) ([]swarm.Object, error)
	CreateSecret(ctx context.Context, spec dockerswarm.SecretSpec) (id string, err error)
	RemoveSecret(ctx context.Context, id string) error
	Configs(ctx context.Context) ([]swarm.Object, error)
	CreateConfig(ctx context.Context, spec dockerswarm.ConfigSpec) (id string, err error)
	RemoveConfig(ctx context.Context, id string) error

	ServiceEntries(ctx context.Context) ([]swarm.ServiceEntry, error)
	CreateService(ctx context.Context, spec dockerswarm.ServiceSpec) (id string, err error)
	UpdateService(ctx context.Context, id string, version uint64, spec dockerswarm.ServiceSpec) error
	RemoveService(ctx context.Context, id string) error

	RegistryImage(ctx context.Context, ref string) (swarm.Image, error)
	LocalImage(ctx context.Context, ref string) (swarm.Image, error)
	SaveImage(ctx context.Context, ref string) (io.ReadCloser, error)
}

// Options are what a [Service] works with.
type Options struct {
	Node   *nodefile.Node // the controller's own, with all targets
	Engine Engine
	// Image is the file that the image has of what is declared, StateDir the service's
	// folder, SecretsDir the one where the content of secrets waits, and ConfigsDir
	// that of configs that are pushed.
	Image, StateDir, SecretsDir, ConfigsDir string
	// Key is what only the controller knows; the names of versions are made with it.
	Key []byte
	// Told is told of everything that is done; it does not wait. It may be nil.
	Told   func(detail string)
	Limits Limits
	Log    *slog.Logger
}

// Limits are how long is waited for what. The zero value of each is what is right for
// a cluster.
type Limits struct {
	// Look is the time between two looks at what is waited for, and Again the time
	// until what failed is tried again. Defaults: 10 and 30 seconds.
	Look, Again time.Duration
}

func (o *Options) check() error {
	if o.Node == nil || o.Engine == nil || o.Image == "" || o.StateDir == "" || o.SecretsDir == "" || o.ConfigsDir == "" || len(o.Key) < 16 {
		return errors.New("workloads need the controller's node file, its engine, their folders, and a key")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Told == nil {
		o.Told = func(string) {}
	}
	if o.Limits.Look <= 0 {
		o.Limits.Look = 10 * time.Second
	}
	if o.Limits.Again <= 0 {
		o.Limits.Again = 30 * time.Second
	}
	return nil
}

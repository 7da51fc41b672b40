package operation

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// Options are what a [Service] works with.
type Options struct {
	Node     *nodefile.Node // the controller's own, with all targets
	StateDir string         // the service's folder, where operations are written down
	Swarm    Swarm
	// View is where everybody stands, as the controller has it.
	View func(ctx context.Context) (*enrol.ClusterView, error)
	// Renewer gives who renews a slot's root, for a rebuild or for an upgrade (and
	// its undoing): the error says why nobody does, with the remedy.
	Renewer func(kind Kind, slot int) (Renewer, error)
	// Keeper saves what outlives a root; nil where nothing does.
	Keeper Keeper
	// Unkept says why what outlives a root cannot be kept now, though it is to be; nil where it
	// can. What would lose it is refused then; there is no Keeper.
	Unkept error
	// Told is told of every step; it does not wait. It may be nil.
	Told   func(slot int, detail string)
	Limits Limits
	// Now is the time by which roots are held on to; nil: time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Limits are how long is waited for what. The zero value of each is what is right
// for a cluster.
type Limits struct {
	// Look is the time between two looks at what is waited for. Default: 2
	// seconds.
	Look time.Duration
	// Drain is how long tasks may take to go elsewhere, where the request does
	// not say. Default: 5 minutes.
	Drain time.Duration
	// Boot is how long a node whose root is new may take until it is Ready: the
	// first boot of a Zero configures Docker's packages. Default: 30 minutes.
	Boot time.Duration
	// Settle is how long the controller may take to give a new entry its labels,
	// and to remove the former one. Default: a minute.
	Settle time.Duration
	// Health is how long the services may take until they have their replicas
	// again, Steady how long they must have them. Defaults: 10 minutes, 15 seconds.
	Health time.Duration
	Steady time.Duration
	// Unheard is how long a node may have been silent and still be asked.
	// Default: 90 seconds.
	Unheard time.Duration
	// Reach is how long a node may take until it can be asked for what outlives its
	// root: it may be in the middle of a boot. Default: 3 minutes.
	Reach time.Duration
	// Still is how long the renewing of a root, or the saving of what outlives it, may tell
	// nothing new, Work how long it may take. Defaults: an hour, 12 hours.
	Still time.Duration
	Work  time.Duration
	// Hold is how long the root before is held on to after an upgrade was done. Default:
	// a day.
	Hold time.Duration
	// Swarm is how long a swarm that does not answer is waited for. Default: 5
	// minutes.
	Swarm time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&l.Look, 2 * time.Second},
		{&l.Drain, 5 * time.Minute},
		{&l.Boot, 30 * time.Minute},
		{&l.Settle, time.Minute},
		{&l.Health, 10 * time.Minute},
		{&l.Steady, 15 * time.Second},
		{&l.Unheard, 90 * time.Second},
		{&l.Reach, 3 * time.Minute},
		{&l.Still, time.Hour},
		{&l.Work, 12 * time.Hour},
		{&l.Hold, 24 * time.Hour},
		{&l.Swarm, 5 * time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	return l
}

func (o *Options) check() error {
	if o.Node == nil || o.StateDir == "" || o.Swarm == nil || o.View == nil || o.Renewer == nil {
		return errors.New("operations need the controller's node file, a folder, the swarm, the cluster's view and who renews roots")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Unkept != nil {
		o.Keeper = unkept{o.Unkept}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Told == nil {
		o.Told = func(int, string) {}
	}
	o.Limits = o.Limits.withDefaults()
	return nil
}

package power

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"hatchery/controller"
	"hatchery/controller/hat"
	"hatchery/internal/nodefile"
)

// A HAT switches; *hat.HAT is one.
type HAT interface {
	Start(ctx context.Context) error
	Fresh() bool
	On(ctx context.Context, slot int) error
	Off(ctx context.Context, slot int) error
	Powered(ctx context.Context, slot int) (bool, error)
	Hub(ctx context.Context, on bool) error
	Alert(ctx context.Context, on bool) error
	Status(ctx context.Context) (hat.Status, error)
}

// Boots keeps slots going that boot without a card; *netboot.Service is one. It
// uses the same HAT.
type Boots interface {
	// Drives says whether a slot's power is its own: it boots over its link.
	Drives(slot int) bool
	On(ctx context.Context, slot int) error
	Off(ctx context.Context, slot int) error
	Cycle(ctx context.Context, slot int) error
}

// Options are what a [Service] works with. The functions are asked from
// goroutines of the service's own, and may take a moment.
type Options struct {
	Node *nodefile.Node // the controller's own; nil: no slot is the cluster's, and none is looked after
	// HAT is nil where there is none; Missing says why.
	HAT     HAT
	Missing error
	// StateDir keeps what somebody switched off by hand: the service's folder.
	StateDir string
	// RunDir goes with the power, and keeps what was done since the controller
	// booted: /run/hatchery.
	RunDir string
	Limits Limits

	Boots Boots // nil: no slot boots without a card
	// Links gives the slots one of whose links is up; nil: the kernel's.
	Links func() (map[int]bool, error)
	// Ready gives the slots whose nodes the swarm takes for ready; nil: there is no
	// swarm.
	Ready func() (map[int]bool, error)
	// AtWork says what somebody is at with a slot, who expects it to go away for a
	// while, and not its power to be cut by others; nil: nobody is. It does not wait.
	AtWork func(slot int) *Work
	// Shutdown asks a slot's node to shut down, and returns when it has said that
	// it will; nil: nobody can ask.
	Shutdown func(ctx context.Context, slot int) error
	// Told hears what was done, and does not wait.
	Told func(controller.Event)
	Log  *slog.Logger
}

// EventPower is the kind of the events: something was switched, or could not be.
// Those that a person should look at are [controller.EventAlarm].
const EventPower = "power"

func (o *Options) fill() {
	if o.StateDir == "" {
		o.StateDir = filepath.Join(nodefile.StateDir, nodefile.ServiceDir)
	}
	if o.RunDir == "" {
		o.RunDir = nodefile.RunDir
	}
	if o.HAT == nil && o.Missing == nil {
		o.Missing = hat.ErrNoHAT
	}
	if o.Links == nil {
		o.Links = kernelLinks
	}
	if o.AtWork == nil {
		o.AtWork = func(int) *Work { return nil }
	}
	if o.Told == nil {
		o.Told = func(controller.Event) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Limits = o.Limits.filled()
}

// What stands in the way of a caller.
var (
	// ErrOffByHand is that of a slot which somebody has switched off, and which
	// only somebody switches on.
	ErrOffByHand = errors.New("it was switched off by hand")
	// ErrUnknownSlot is that of a slot which neither the HAT nor the cluster has.
	ErrUnknownSlot = errors.New("there is no such slot")
)

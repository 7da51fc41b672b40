package preserve

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// Dir is where the archives lie on the controller.
const Dir = nodefile.StateDir + "/kept"

// Quota is how many bytes are kept of a slot, unless Options say otherwise, and
// Reserve is what is left free on the controller's card.
const (
	Quota   = 4 << 30
	Reserve = 256 << 20
)

// Options are what a [Keeper] works with.
type Options struct {
	Node     *nodefile.Node  // the controller's own, with all targets
	Identity *enrol.Identity // the controller's
	Dir      string          // "" is Dir
	Quota    int64           // of a slot, in bytes before they are compressed; 0 is Quota
	// Hold is how long what was given back is kept on after its node was Ready, of
	// the time that the service runs; 0: a day.
	Hold time.Duration
	// Port is where the nodes listen; 0: enrol.Port. Addr gives a slot's address; nil
	// for the node file's.
	Port uint16
	Addr func(slot int) (netip.Addr, error)
	// Rewrites says whether the slot's card is about to be written over, whatever starts from
	// it: such a root waits, since what it got back would be gone with it. nil: never.
	Rewrites func(slot int) bool
	// Stall is how long a call may stand still before it is given up; 0: two minutes.
	// A node counts what it has before it answers.
	Stall time.Duration
	// Free is how many bytes of a folder's file system are free; nil asks the kernel.
	Free func(dir string) (int64, error)
	Log  *slog.Logger // nil for none
}

func (o *Options) check() error {
	if o.Node == nil || !o.Node.IsController() || o.Identity == nil || o.Identity.Peer.Slot != 0 {
		return errors.New("what outlives a new root is kept by the controller alone")
	}
	if o.Dir == "" {
		o.Dir = Dir
	}
	if o.Quota == 0 {
		o.Quota = Quota
	}
	if o.Hold == 0 {
		o.Hold = 24 * time.Hour
	}
	if o.Port == 0 {
		o.Port = enrol.Port
	}
	if o.Addr == nil {
		targets := o.Node.Targets
		o.Addr = func(slot int) (netip.Addr, error) {
			for _, t := range targets {
				if t.Slot == slot && slot != 0 {
					return t.Address, nil
				}
			}
			return netip.Addr{}, fmt.Errorf("there is no slot %d: add it to cluster.yaml, and build the controller's image again", slot)
		}
	}
	if o.Rewrites == nil {
		o.Rewrites = func(int) bool { return false }
	}
	if o.Stall == 0 {
		o.Stall = 2 * time.Minute
	}
	if o.Free == nil {
		o.Free = free
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

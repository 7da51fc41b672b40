package clock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// Marker is the file that systemd-timesyncd makes when a time server has
// answered since the boot (systemd-timesyncd.service(8)).
const Marker = "/run/systemd/timesync/synchronized"

// A Trust judges the controller's own clock. Nodes follow it, so it tells them
// nothing before it knows the time.
type Trust struct {
	// Floor is the earliest time that can be, [Floor] of the node's file.
	Floor time.Time
	// Offline says that the operator vouches for the clock (swarm: {offline:
	// true}): there are no time servers to wait for.
	Offline bool
	// Synchronized says whether time servers keep the clock; nil for
	// [Synchronized].
	Synchronized func() (bool, error)
	// Marker is looked for beside; "" for [Marker].
	Marker string
	// Now is the clock; nil for the system's.
	Now func() time.Time

	known atomic.Bool
}

// NewTrust is the trust that the controller's file asks for.
func NewTrust(n *nodefile.Node) *Trust {
	return &Trust{Floor: Floor(n), Offline: n.Swarm != nil && n.Swarm.Offline}
}

// Trusted says whether the clock is right, and why: enrol.TimeNTP,
// enrol.TimeOperator, or else enrol.TimeUntrusted. A clock that time servers
// have set stays trusted when they are not heard for a while: a Pi's crystal
// loses a second or two a day.
func (t *Trust) Trusted(ctx context.Context) (source string, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return enrol.TimeUntrusted, false, err
	}
	o := Options{Floor: t.Floor, Now: t.Now}
	if o.now().Before(o.floor()) {
		return enrol.TimeUntrusted, false, nil
	}
	synchronized, err := t.synchronized()
	switch {
	case synchronized:
		t.known.Store(true)
		return enrol.TimeNTP, true, nil
	case t.known.Load():
		return enrol.TimeNTP, true, nil
	case t.Offline:
		return enrol.TimeOperator, true, nil
	}
	return enrol.TimeUntrusted, false, err
}

// synchronized asks timesyncd's marker first, which stays for the boot; the
// kernel forgets after some hours without a server. Other programs (chrony,
// ntpd) tell the kernel only.
func (t *Trust) synchronized() (bool, error) {
	marker := t.Marker
	if marker == "" {
		marker = Marker
	}
	_, missing := os.Stat(marker)
	if missing == nil {
		return true, nil
	}
	kernel := t.Synchronized
	if kernel == nil {
		kernel = Synchronized
	}
	ok, err := kernel()
	if err == nil && !errors.Is(missing, fs.ErrNotExist) {
		err = missing
	}
	if err != nil {
		err = fmt.Errorf("cannot find out whether time servers have set the clock: %w", err)
	}
	return ok, err
}

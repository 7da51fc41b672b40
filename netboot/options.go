package netboot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/netboot/bootfiles"
	"hatchery/netboot/nbd"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbhost"
)

// Port is where the slots' roots are had: NBD's registered port.
const Port = 10809

// A Bus is where boards show up; *usbhost.Host is one.
type Bus interface {
	Attend(ctx context.Context, seen func([]usbhost.Device), serve func(ctx context.Context, d usbhost.Device))
	Open(d usbhost.Device) (usbboot.Transport, error)
	FindWiring(s usbhost.Search, devices []usbhost.Device) (usbhost.Wiring, error)
	Rivals() ([]usbhost.Process, error)
}

// Options are what a Service works with.
type Options struct {
	Node  *nodefile.Node // the controller's own
	Store *store.Store
	// NodeInit gives the program that a node without a card starts, for an
	// architecture: armv6, arm64.
	NodeInit func(architecture string) ([]byte, error)
	// Writer gives the program that a node starts whose card is half written and has
	// nothing to boot from, for an architecture; nil: such nodes are left alone.
	// Unfinished says whose cards these are. It does not wait; nil: nobody's.
	Writer     func(architecture string) ([]byte, error)
	Unfinished func(slot int) bool
	// Rescued is told of a slot whose node was started over USB to go on writing its card;
	// it does not wait; nil: nobody.
	Rescued func(slot int)
	// Keeps says of a slot whose card is half written that its power is not to be cut by
	// itself: without it the card may start nothing any more. It does not wait; nil: of
	// none.
	Keeps func(slot int) bool
	// Hold says whether the root that a slot had before is held on to although its node
	// was seen Ready, so that it can go back. It does not wait; nil: it is not.
	Hold func(slot int) bool
	// Firmware has files that are sent in place of the images'.
	Firmware map[string]bootfiles.Firmware
	// Modules and Words are kernel modules and words for the kernel that nodes
	// get beside those that they need.
	Modules, Words []string

	Bus   Bus         // nil: this machine's
	Power slots.Power // nil: nobody can switch the slots
	// Wiring keeps which USB path is which slot's: a file; "" keeps it not.
	Wiring string
	Limits slots.Limits
	// Run is a folder that goes with the power, for what a service that is killed
	// has to leave to the next; "" for none.
	Run string

	// Listen is where roots are had, as on a controller: 172.19.180.254:10809.
	Listen string
	// Listener is used in the place of Listen, if it is there.
	Listener net.Listener
	// Network keeps the network that roots come over, until ctx ends, and tells
	// what is wrong with it, nil for nothing; nil: it is there.
	Network func(ctx context.Context, told func(error))
	// Links tells which of the slots' links are up, whenever that changes, until
	// ctx ends; nil: the kernel's.
	Links func(ctx context.Context, told func(Links))
	// TLS is for clients that can: mutual, with SlotOf telling the slot of a
	// certificate.
	TLS    *tls.Config
	SlotOf func(c *x509.Certificate) (int, error)
	// PortOf says behind which slot's port an address is, as far as that is
	// known; nil where there is nothing to ask.
	PortOf func(ctx context.Context, a netip.Addr) (slot int, known bool, err error)

	Log *slog.Logger
	// Told hears where slots stand, whenever that changes; it does not wait.
	Told func(slots.Status)
}

// Links are the slots whose link is up: those that booted over it, and those
// that booted from a card.
type Links struct{ Booted, Card map[int]bool }

func (o Options) check() error {
	switch {
	case o.Node == nil || o.Store == nil:
		return errors.New("netboot needs the controller's node.json and a store")
	case o.NodeInit == nil:
		return errors.New("netboot needs the program that nodes start")
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Bus == nil {
		o.Bus = &usbhost.Host{Log: o.Log}
	}
	if o.Listen == "" {
		o.Listen = netip.AddrPortFrom(controllerRootAddr, Port).String()
	}
	if o.Links == nil {
		o.Links = watchLinks
	}
	return o
}

// controllerRootAddr is the controller's address on the roots' network.
var controllerRootAddr = addrOn(clusterctrl.RootNetwork, 254)

func addrOn(network netip.Prefix, host byte) netip.Addr {
	a := network.Addr().As4()
	a[3] = host
	return netip.AddrFrom4(a)
}

// slotAt is the slot whose address on the roots' network it is.
func slotAt(a netip.Addr) (int, bool) {
	a = a.Unmap()
	if !a.Is4() || !clusterctrl.RootNetwork.Contains(a) {
		return 0, false
	}
	n := int(a.As4()[3])
	return n, n >= clusterctrl.MinSlot && n <= clusterctrl.MaxSlot
}

// NoSlotError says that the cluster has no such slot.
type NoSlotError struct{ Slot int }

func (e *NoSlotError) Error() string {
	return fmt.Sprintf("%s is not a slot of this cluster", clusterctrl.SlotName(e.Slot))
}

// ErrStopping says that a slot is being switched off.
var ErrStopping = fmt.Errorf("the slot is being switched off: %w", nbd.ErrShutdown)

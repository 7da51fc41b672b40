// Package link is a node's way to the controller: the USB link's interface, its
// address, the default route, carrier, and whether the controller answers at
// the other end.
//
// On a real node systemd-networkd configures the link by the files of the
// overlays. This package waits a moment for it, checks what is there, and
// makes what is missing, so a node with no networkd at all gets its link too.
// It takes nothing away: addresses and routes of the operator's stay.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"hatchery/firstboot/networkd"
)

// What keeps a node from its controller.
var (
	// ErrNoLink: there is no interface with the slot's MAC address, and not
	// exactly one that hangs on USB. The gadget was not made, or its module is
	// missing.
	ErrNoLink = errors.New("there is no link to the controller")
	// ErrNoCarrier: nobody is at the other end.
	ErrNoCarrier = errors.New("the link to the controller has no carrier")
	// ErrSilent: the controller does not answer, not even to refuse.
	ErrSilent = errors.New("the controller does not answer")
)

// Options are where and how to look. The zero value is a real node's.
type Options struct {
	// Sysfs tells which interfaces hang on USB: /sys.
	Sysfs string
	// Networkd is systemd-networkd's folder of states, a file a link:
	// /run/systemd/netif.
	Networkd string
	// Starts is for how long networkd may take to start, and udev to name the
	// link: a minute. The agent starts beside them.
	Starts time.Duration
	// Settle is for how long networkd, where it has the link, may take to
	// configure it before that is done in its place: 5 s.
	Settle time.Duration
	// Port is the port of the controller that is tried: 7443, the enrolment
	// service's.
	Port uint16
	// Patience is how long the controller may take to answer: 5 s.
	Patience time.Duration
	// Log is told what was changed. None given: nobody is.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Sysfs == "" {
		o.Sysfs = "/sys"
	}
	if o.Networkd == "" {
		o.Networkd = networkd.Dir
	}
	if o.Starts == 0 {
		o.Starts = time.Minute
	}
	if o.Settle == 0 {
		o.Settle = 5 * time.Second
	}
	if o.Port == 0 {
		o.Port = 7443
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// A Link is the interface that leads to the controller. Index is what it is
// known by: udev renames interfaces.
type Link struct {
	Index int
	Name  string
	MAC   net.HardwareAddr
}

// How the controller answered.
const (
	Answers = "answers" // its enrolment service takes connections
	Refuses = "refuses" // the machine is there, its enrolment service is not, yet
	Silent  = "silent"
)

// A Status is how a node's link stands.
type Status struct {
	Link       Link
	Address    netip.Prefix // the node's own, once the link has it
	Carrier    bool
	Gateway    netip.Addr // of the default route by the link; not valid where there is none
	Controller string     // Answers, Refuses, Silent; "" where it was not tried
	Repaired   []string   // what this call has made, as words
	Notes      []string   // what is odd, and no hindrance
}

// String is the status in a line: "usb0, 172.19.181.1/24, controller answers".
func (s Status) String() string {
	if s.Link.Index == 0 {
		return "no link"
	}
	parts := []string{s.Link.Name}
	if s.Address.IsValid() {
		parts = append(parts, s.Address.String())
	}
	if !s.Carrier {
		parts = append(parts, "no carrier")
	}
	if s.Controller != "" {
		parts = append(parts, "controller "+s.Controller)
	}
	return strings.Join(append(parts, s.Notes...), ", ")
}

// dial tries the controller from the node's own address. What it gives is
// Answers, Refuses or Silent, and why it is silent.
func dial(ctx context.Context, own, controller netip.Addr, port uint16, patience time.Duration) (string, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, 0))}
	conn, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(controller, port).String())
	switch {
	case err == nil:
		conn.Close()
		return Answers, nil
	case isRefused(err):
		return Refuses, nil
	}
	return Silent, fmt.Errorf("%w at %s: %w", ErrSilent, controller, err)
}

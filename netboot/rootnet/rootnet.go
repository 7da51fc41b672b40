// Package rootnet is the network of roots that come over the link, on the
// controller: the bridge brint with 172.19.180.254, and for each slot that
// booted over its link a VLAN on ethupiN, ethupiN.10, as a port of it. The other
// end is the node's usb0.10. Nothing but NBD is spoken there.
//
// # Who is who
//
// A slot is known by its address, 172.19.180.N, since no other can have it: the
// ports are isolated, so slots neither see nor reach each other; the controller
// sends what is for that address to that slot's MAC address behind that slot's
// port, by entries that are not learned. A slot that pretends to be another has
// no answer, hence no TCP connection. [SlotOf] says the same of an address by
// what the kernel's tables have.
//
// # No way through
//
// brint forwards nothing: packets that come from it end at the controller. What
// comes from elsewhere and would go to brint is the packet filter's matter, as
// is what reaches 172.19.180.254 from other networks.
package rootnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"hatchery/internal/clusterctrl"
)

const (
	// VLAN is the id of the slots' root traffic on their links.
	VLAN = 10
	// MTU is brint's and its ports': what is left of 1500 bytes beside the
	// VLAN's tag, for gadgets that do not count it apart.
	MTU = 1496
)

// MAC is brint's fixed address, a locally administered one. Without one, a
// bridge has the lowest of its ports', and it changes with them.
func MAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0x22, 0x82, 0xff, 0xfe, 0xfe} }

// Address is the controller's on the network of roots.
func Address() netip.Prefix { return netip.PrefixFrom(host(254), clusterctrl.RootNetwork.Bits()) }

// SlotAddr is slot n's address on the network of roots.
func SlotAddr(n int) netip.Addr { return host(n) }

func host(n int) netip.Addr {
	a := clusterctrl.RootNetwork.Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

// slotOfLink gives the slot of a link's name, "ethupi17" for 17.
func slotOfLink(name string) (slot int, ok bool) {
	digits, ok := strings.CutPrefix(name, clusterctrl.BootLinkPrefix)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < clusterctrl.MinSlot || n > clusterctrl.MaxSlot || digits != strconv.Itoa(n) {
		return 0, false
	}
	return n, true
}

// linkName is the name of slot n's link, portName that of its port of brint.
func linkName(n int) string { return clusterctrl.BootLinkPrefix + strconv.Itoa(n) }

func portName(n int) string { return linkName(n) + "." + strconv.Itoa(VLAN) }

// ErrNoVLAN says that the kernel has no VLANs, which nothing here can do
// without.
var ErrNoVLAN = errors.New("the kernel has no VLANs: it lacks the module 8021q. " +
	"Load it (modprobe 8021q); if it is not found, install the modules of the kernel that runs, or start the kernel that is installed (reboot)")

// Options are where and how to look. The zero value is a real controller's.
type Options struct {
	// Sysctl is the folder of the kernel's settings: /proc/sys.
	Sysctl string
	// Log is told what was changed. None given: nobody is.
	Log *slog.Logger
	// Every is how often Keep looks besides whenever something changes, since
	// not every change is told: a minute.
	Every time.Duration
	// Slots are those whose addresses are bound to their MAC addresses whether
	// their links are there or not, so that no other slot can answer for one
	// that is off. None given: those whose links are there.
	Slots []int

	vlans vlans // the kernel's
}

func (o Options) withDefaults() Options {
	if o.Sysctl == "" {
		o.Sysctl = "/proc/sys"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Every == 0 {
		o.Every = time.Minute
	}
	if o.vlans == nil {
		o.vlans = kernelVLANs{}
	}
	return o
}

// A Port is a slot's port of brint.
type Port struct {
	Slot    int    `json:"slot"`
	Name    string `json:"name"`    // "ethupi1.10"
	Index   int    `json:"-"`       // the kernel's index of the link
	Carrier bool   `json:"carrier"` // whether somebody is at the other end
}

// A Status is how the network of roots stands.
type Status struct {
	Index    int          // the kernel's of brint, 0 without one
	Address  netip.Prefix // the controller's own, once brint has it
	Ports    []Port       // that work, by slot
	Repaired []string
	Problems []string // what does not work though brint does
}

// String is the status in a line: "brint 172.19.180.254/24, 4 slots".
func (s Status) String() string {
	if s.Index == 0 {
		return "no " + clusterctrl.InternalBridge
	}
	parts := []string{clusterctrl.InternalBridge}
	if s.Address.IsValid() {
		parts[0] += " " + s.Address.String()
	}
	if n := len(s.Ports); n == 1 {
		parts = append(parts, "1 slot")
	} else {
		parts = append(parts, fmt.Sprintf("%d slots", n))
	}
	return strings.Join(append(parts, s.Problems...), ", ")
}

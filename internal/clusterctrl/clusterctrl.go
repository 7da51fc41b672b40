// Package clusterctrl holds ClusterCTRL's numbering: which subnets, addresses,
// MAC addresses, interface names and USB ids belong to which slot of a
// ClusterHAT. hatchery keeps to it, so that a hatchery node works on a stock
// controller's HAT and the other way round.
//
// Source: clusterhat-image's composite-clusterctrl, 90-clusterctrl.rules and
// interface files.
package clusterctrl

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Slots run from MinSlot to MaxSlot. A HAT has four; ClusterCTRL's numbering
// leaves room for 252, since .253 and .254 are taken.
const (
	MinSlot = 1
	MaxSlot = 252
)

// The interfaces that belong to hatchery. No network manager may touch them.
const (
	Bridge         = "br0"   // on the controller: what the slots' links are ports of
	InternalBridge = "brint" // on the controller: netboot's root traffic (VLAN 10)
	NodeLink       = "usb0"  // on a node: its end of the USB link
	CardLinkPrefix = "ethpi" // on the controller: ethpiN, a slot that booted from its card
	BootLinkPrefix = "ethupi"
)

// USB identity of a node's gadget.
const (
	USBVendor      = 0x3171
	USBProductNCM  = 0x0021
	USBProductECM  = 0x0022
	USBProductName = "ClusterCTRL"
)

// The two subnets: Network carries the nodes' own traffic, RootNetwork the
// root file systems of slots that boot over the link.
var (
	Network     = netip.MustParsePrefix("172.19.181.0/24")
	RootNetwork = netip.MustParsePrefix("172.19.180.0/24")
)

// ControllerAddr is the controller's address on Network.
func ControllerAddr() netip.Addr { return hostAddr(Network, 254) }

// SlotAddr is slot n's address on Network.
func SlotAddr(n int) netip.Addr { return hostAddr(Network, n) }

func hostAddr(p netip.Prefix, host int) netip.Addr {
	a := p.Addr().As4()
	a[3] = byte(host)
	return netip.AddrFrom4(a)
}

// ControllerMAC is the MAC address of the controller's end of slot n's link.
func ControllerMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{0x00, 0x22, 0x82, 0xff, 0xfe, byte(n)}
}

// NodeMAC is the MAC address of the node's end of slot n's link.
func NodeMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{0x00, 0x22, 0x82, 0xff, 0xff, byte(n)}
}

// BridgeMAC is the fixed MAC address of br0. Without one the bridge takes
// over the lowest of its ports' addresses and changes it as slots come and go.
// Slot numbers end at 252, so no slot's link has it.
func BridgeMAC() net.HardwareAddr { return ControllerMAC(254) }

// ParseSlot reads a slot's name, "p1" to "p252".
func ParseSlot(name string) (int, error) {
	digits, ok := strings.CutPrefix(name, "p")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < MinSlot || n > MaxSlot || SlotName(n) != name {
		return 0, fmt.Errorf("%q is not a slot: slots are p%d to p%d", name, MinSlot, MaxSlot)
	}
	return n, nil
}

// SlotName is the name of slot n, "p1" for 1.
func SlotName(n int) string { return "p" + strconv.Itoa(n) }

// Package rtnl is what the node's packages need of the kernel's network
// configuration beyond the netlink library: to be told when it changes, and
// lists that are whole.
package rtnl

import (
	"log/slog"
	"net"
	"time"
)

// WatchOptions say what matters.
type WatchOptions struct {
	// Links says which links matter, with their addresses and routes. None
	// given: all do.
	Links func(Link) bool
	// PacketFilter asks for changes of the packet filter too: every
	// transaction of nftables, by which iptables-nft works as well. The old
	// iptables tells nobody.
	PacketFilter bool
	// Log is for trouble with the subscription. None given: none is written.
	Log *slog.Logger
	// Quiet is for how long nothing more must happen before a burst of
	// changes is told, 100 ms if 0. A burst that goes on is told every ten of
	// them.
	Quiet time.Duration
}

// A Link is a network interface as its event shows it.
type Link struct {
	Index  int
	Name   string
	Kind   string // "veth", "bridge" …; "device" for one with a driver of its own
	MAC    net.HardwareAddr
	Master int // the index of the bridge that it is a port of, 0 for none
}

// Stacked says whether links of a kind lie on top of others, and may have the
// MAC address of one: netboot's VLANs have a slot's.
func Stacked(kind string) bool {
	switch kind {
	case "vlan", "macvlan", "macvtap", "ipvlan", "bridge", "bond":
		return true
	}
	return false
}

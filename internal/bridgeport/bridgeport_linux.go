package bridgeport

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/rtnl"
)

// SlotOf tells which slot's port of br0 an address is behind. It is not known
// where there is no br0, where nothing was heard from the address lately, or
// where it is the controller's own. Known and slot 0 means that it is behind a
// port that is no slot's, such as eth0 with the LAN behind it. A *SharedError
// says that several ports claim to be the slot's.
func SlotOf(ctx context.Context, addr netip.Addr) (slot int, known bool, err error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	addr = addr.Unmap()
	bridge, err := bridge()
	if bridge == nil || err != nil {
		return 0, false, err
	}
	mac, err := neighbour(bridge.Attrs().Index, addr)
	if mac == nil || err != nil {
		return 0, false, err
	}
	index, err := portOf(bridge.Attrs().Index, mac)
	if index == 0 || err != nil {
		return 0, false, err
	}
	link, err := netlink.LinkByIndex(index)
	switch {
	case rtnl.IsGone(err): // pulled out since
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("cannot read port %d of %s: %w", index, clusterctrl.Bridge, err)
	}
	slot, ok := SlotOfMAC(link.Attrs().HardwareAddr)
	if !ok {
		return 0, true, nil
	}
	ports, err := Ports(ctx)
	if err != nil {
		return 0, false, err
	}
	var names []string
	for _, p := range ports {
		if p.Slot == slot {
			names = append(names, p.Name)
		}
	}
	if len(names) > 1 {
		return 0, false, &SharedError{Slot: slot, Ports: names}
	}
	return slot, true, nil
}

// Ports lists the slots' ports of br0, by slot and name. Without br0 there are
// none.
func Ports(ctx context.Context) ([]Port, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bridge, err := bridge()
	if bridge == nil || err != nil {
		return nil, err
	}
	// The bridges' own list of ports, a fraction of what is to be told of all
	// links.
	messages, err := rtnl.List(func() ([][]byte, error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the ports of %s: %w", clusterctrl.Bridge, err)
	}
	var ports []Port
	for _, m := range messages {
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("cannot list the ports of %s: %w", clusterctrl.Bridge, err)
		}
		a := link.Attrs()
		if slot, ok := SlotOfMAC(a.HardwareAddr); ok && a.MasterIndex == bridge.Attrs().Index {
			ports = append(ports, Port{Slot: slot, Name: a.Name, Index: a.Index, Carrier: rtnl.Carrier(a)})
		}
	}
	slices.SortFunc(ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Name, b.Name))
	})
	return ports, nil
}

// bridge gives br0, nil where there is none.
func bridge() (netlink.Link, error) {
	link, err := netlink.LinkByName(clusterctrl.Bridge)
	switch {
	case rtnl.IsGone(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot find %s: %w", clusterctrl.Bridge, err)
	}
	return link, nil
}

// neighbour gives the MAC address of an IP address, nil where none is known.
func neighbour(bridge int, addr netip.Addr) (net.HardwareAddr, error) {
	family := uint8(unix.AF_INET)
	if addr.Is6() {
		family = unix.AF_INET6
	}
	entries, err := rtnl.List(func() ([]netlink.Neigh, error) {
		return netlink.NeighListExecute(netlink.Ndmsg{Family: family, Index: uint32(bridge)})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the neighbours of %s: %w", clusterctrl.Bridge, err)
	}
	for _, e := range entries {
		ip, ok := netip.AddrFromSlice(e.IP)
		// An entry that failed keeps the address that it had once.
		if ok && ip.Unmap() == addr && e.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) == 0 && len(e.HardwareAddr) == 6 {
			return e.HardwareAddr, nil
		}
	}
	return nil, nil
}

// portOf gives the link by which a MAC address is reached, 0 where the bridge
// does not know.
func portOf(bridge int, mac net.HardwareAddr) (int, error) {
	entries, err := rtnl.List(func() ([]netlink.Neigh, error) {
		return netlink.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE})
	})
	if err != nil {
		return 0, fmt.Errorf("cannot read the forwarding database of %s: %w", clusterctrl.Bridge, err)
	}
	for _, e := range entries {
		// The permanent ones are the addresses of the bridge's own links.
		if e.MasterIndex == bridge && e.LinkIndex != bridge && e.State&unix.NUD_PERMANENT == 0 && bytes.Equal(e.HardwareAddr, mac) {
			return e.LinkIndex, nil
		}
	}
	return 0, nil
}

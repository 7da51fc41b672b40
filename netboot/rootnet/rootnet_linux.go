package rootnet

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hatchery/internal/bridgeport"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/rtnl"
)

// vlans makes VLANs and knows them again. Tests have others on kernels that
// have none.
type vlans interface {
	make(parent netlink.Link, name string) error
	is(link, parent netlink.Link) bool
}

type kernelVLANs struct{}

func (kernelVLANs) make(parent netlink.Link, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.MTU = name, parent.Attrs().Index, MTU
	err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	// "Unknown device type", after the kernel has looked for the module itself.
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w (%w)", ErrNoVLAN, err)
	}
	return err
}

func (kernelVLANs) is(link, parent netlink.Link) bool {
	v, ok := link.(*netlink.Vlan)
	return ok && v.VlanId == VLAN && v.VlanProtocol == netlink.VLAN_PROTOCOL_8021Q && v.ParentIndex == parent.Attrs().Index
}

// Ensure makes what the network of roots lacks and says how it stands. An error
// means that there is no brint with the controller's address, so that no slot
// can reach it; what else is wrong is among the status's problems. What is
// somebody else's, though it has a name of ours, is left alone and told.
func Ensure(ctx context.Context, opt Options) (Status, error) {
	e := &ensuring{Options: opt.withDefaults()}
	err := e.run(ctx)
	for _, what := range e.status.Repaired {
		e.Log.Info("repaired the network of roots", "what", what)
	}
	return e.status, err
}

// Keep ensures the network of roots until ctx ends, whenever something changes
// and now and then. told, which may be nil, is told how it stands each time.
func Keep(ctx context.Context, opt Options, told func(Status, error)) {
	opt = opt.withDefaults()
	changes := Watch(ctx, opt)
	every := time.NewTicker(opt.Every)
	defer every.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-changes:
			if !ok {
				return
			}
		case <-every.C:
		}
		status, err := Ensure(ctx, opt)
		if ctx.Err() != nil {
			return
		}
		trouble := strings.Join(status.Problems, "; ")
		if err != nil {
			trouble = err.Error()
		}
		if trouble != last && trouble != "" {
			opt.Log.Warn("the network of roots does not work", "problems", trouble)
		}
		last = trouble
		if told != nil {
			told(status, err)
		}
	}
}

// Watch tells whenever something may have changed of the network of roots, and
// once at the beginning, until ctx ends. Ensure says what it was.
func Watch(ctx context.Context, opt Options) <-chan struct{} {
	return rtnl.Watch(ctx, rtnl.WatchOptions{
		Log: opt.Log,
		Links: func(l rtnl.Link) bool {
			return l.Name == clusterctrl.InternalBridge || strings.HasPrefix(l.Name, clusterctrl.BootLinkPrefix)
		},
	})
}

type ensuring struct {
	Options
	status     Status
	neighbours []netlink.Neigh
	forwarding []netlink.Neigh
}

func (e *ensuring) repaired(format string, args ...any) {
	e.status.Repaired = append(e.status.Repaired, fmt.Sprintf(format, args...))
}

func (e *ensuring) problem(format string, args ...any) {
	e.status.Problems = append(e.status.Problems, fmt.Sprintf(format, args...))
}

func (e *ensuring) run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bridge, err := e.bridge()
	if err != nil {
		return err
	}
	// Before the first port: from then on there is traffic.
	e.settings(ctx)
	if err := e.ports(bridge); err != nil {
		return err
	}
	return ctx.Err()
}

// bridge sees to brint, up and with the controller's address.
func (e *ensuring) bridge() (netlink.Link, error) {
	const name = clusterctrl.InternalBridge
	link, err := netlink.LinkByName(name)
	if rtnl.IsGone(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = name, MAC()
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("cannot make %s: %w", name, err)
		}
		e.repaired("made %s", name)
		link, err = netlink.LinkByName(name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("%s is a link of kind %s, not a bridge: rename or remove it, the name is netboot's", name, link.Type())
	}
	a := link.Attrs()
	e.status.Index = a.Index
	if !bytes.Equal(a.HardwareAddr, MAC()) {
		if err := netlink.LinkSetHardwareAddr(link, MAC()); err != nil {
			return nil, fmt.Errorf("cannot give %s its MAC address %s: %w", name, MAC(), err)
		}
		e.repaired("gave %s the MAC address %s in place of %s", name, MAC(), a.HardwareAddr)
	}
	// One that is not set after it was made follows that of the ports.
	if a.MTU != MTU {
		if err := netlink.LinkSetMTU(link, MTU); err != nil {
			return nil, fmt.Errorf("cannot give %s its MTU of %d: %w", name, MTU, err)
		}
		e.repaired("gave %s the MTU %d in place of %d", name, MTU, a.MTU)
	}
	if a.Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("cannot switch %s on: %w", name, err)
		}
		e.repaired("switched %s on", name)
	}
	addrs, err := rtnl.List(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("cannot read the addresses of %s: %w", name, err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return rtnl.Prefix(a.IPNet) == Address() }) {
		if err := netlink.AddrAdd(link, rtnl.Addr(Address())); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("cannot give %s the address %s: %w", name, Address(), err)
		}
		e.repaired("gave %s the address %s", name, Address())
	}
	e.status.Address = Address()
	return link, nil
}

// settings keep what comes from a slot at the controller.
func (e *ensuring) settings(ctx context.Context) {
	// Once for all of them: what comes later than that does not come.
	wait, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	again := wait.Done()
	const conf = "net/ipv4/conf/" + clusterctrl.InternalBridge + "/"
	for _, setting := range []struct {
		path, value string
		optional    bool
	}{
		{conf + "forwarding", "0", false},
		{conf + "proxy_arp", "0", false},
		{conf + "accept_redirects", "0", false},
		{conf + "send_redirects", "0", false},
		{conf + "accept_source_route", "0", false},
		{conf + "rp_filter", "1", false},  // who comes from here has an address of here
		{conf + "arp_ignore", "1", false}, // and asks for the one that is here
		{"net/ipv6/conf/" + clusterctrl.InternalBridge + "/disable_ipv6", "1", true},
	} {
		path := filepath.Join(e.Sysctl, setting.path)
		value, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && setting.optional { // a kernel without IPv6
			continue
		}
		if err == nil && strings.TrimSpace(string(value)) == setting.value {
			continue
		}
		set := func() error { return os.WriteFile(path, []byte(setting.value+"\n"), 0) }
		if err = set(); err != nil {
			// The bridge may be so new that udev is still about its settings.
			select {
			case <-again:
			case <-ctx.Done():
				return
			}
			err = set()
		}
		if err != nil {
			e.problem("slots may reach more than the controller: %v", err)
		} else {
			e.repaired("set %s to %s", setting.path, setting.value)
		}
	}
}

// ports sees to the slots' ports.
func (e *ensuring) ports(bridge netlink.Link) error {
	links, err := rtnl.Links()
	if err != nil {
		return err
	}
	if e.neighbours, err = neighbours(bridge.Attrs().Index); err != nil {
		return err
	}
	for _, slot := range e.Slots { // before the first port
		if err := e.neighbour(bridge, slot); err != nil {
			return err
		}
	}
	if e.forwarding, err = forwarding(bridge.Attrs().Index); err != nil {
		return err
	}
	byName := map[string]netlink.Link{}
	for _, link := range links {
		byName[link.Attrs().Name] = link
	}
	for _, link := range links {
		a := link.Attrs()
		slot, ok := slotOfLink(a.Name)
		if !ok || rtnl.Stacked(link.Type()) {
			continue
		}
		// udev names it by what the device says. The address is of the same
		// source: they agree, or something is wrong.
		if other, ok := bridgeport.SlotOfMAC(a.HardwareAddr); !ok || other != slot {
			e.problem("%s has the MAC address %s, not slot %d's %s: it gets no root", a.Name, a.HardwareAddr, slot, clusterctrl.ControllerMAC(slot))
			continue
		}
		port, err := e.port(bridge, link, byName[portName(slot)], slot)
		switch {
		case rtnl.IsGone(err): // pulled out: its event follows
		case err != nil:
			e.problem("slot %d gets no root: %v", slot, err)
		default:
			e.status.Ports = append(e.status.Ports, port)
		}
	}
	slices.SortFunc(e.status.Ports, func(a, b Port) int { return cmp.Compare(a.Slot, b.Slot) })
	// A port of brint that is nobody's sees and reaches the slots' roots.
	for _, link := range links {
		a := link.Attrs()
		if a.MasterIndex == bridge.Attrs().Index && !slices.ContainsFunc(e.status.Ports, func(p Port) bool { return p.Index == a.Index }) {
			e.problem("%s is a port of %s and no slot's: remove it there (ip link set %s nomaster)", a.Name, clusterctrl.InternalBridge, a.Name)
		}
	}
	return nil
}

// port sees to a slot's port, on its link.
func (e *ensuring) port(bridge, parent, port netlink.Link, slot int) (Port, error) {
	name := portName(slot)
	if parent.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(parent); err != nil {
			return Port{}, fmt.Errorf("%s cannot be switched on: %w", parent.Attrs().Name, err)
		}
		e.repaired("switched %s on", parent.Attrs().Name)
	}
	if port == nil {
		if err := e.vlans.make(parent, name); err != nil && !errors.Is(err, unix.EEXIST) {
			return Port{}, fmt.Errorf("cannot make %s: %w", name, err)
		}
		e.repaired("made %s", name)
		var err error
		if port, err = netlink.LinkByName(name); err != nil {
			return Port{}, fmt.Errorf("cannot read %s: %w", name, err)
		}
	}
	if !e.vlans.is(port, parent) {
		return Port{}, fmt.Errorf("%s is not VLAN %d of %s: rename or remove it, the name is netboot's", name, VLAN, parent.Attrs().Name)
	}
	a := port.Attrs()
	if a.MTU != MTU {
		if err := netlink.LinkSetMTU(port, MTU); err != nil {
			return Port{}, fmt.Errorf("cannot give %s its MTU of %d: %w", name, MTU, err)
		}
		e.repaired("gave %s the MTU %d in place of %d", name, MTU, a.MTU)
	}
	switch a.MasterIndex {
	case bridge.Attrs().Index:
	case 0:
		// It is down until it is isolated: it sends and hears nothing before.
		if a.Flags&net.FlagUp != 0 {
			if err := netlink.LinkSetDown(port); err != nil {
				return Port{}, fmt.Errorf("cannot switch %s off: %w", name, err)
			}
			a.Flags &^= net.FlagUp
		}
		if err := netlink.LinkSetMasterByIndex(port, bridge.Attrs().Index); err != nil {
			return Port{}, fmt.Errorf("%s is not made a port of %s: %w", name, clusterctrl.InternalBridge, err)
		}
		e.repaired("made %s a port of %s", name, clusterctrl.InternalBridge)
	default:
		return Port{}, fmt.Errorf("%s is a port of another bridge: remove it there", name)
	}
	if err := e.isolate(port); err != nil {
		return Port{}, err
	}
	if err := e.entries(bridge, port, slot); err != nil {
		return Port{}, err
	}
	if a.Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(port); err != nil {
			return Port{}, fmt.Errorf("%s cannot be switched on: %w", name, err)
		}
		e.repaired("switched %s on", name)
	}
	return Port{Slot: slot, Name: name, Index: a.Index, Carrier: rtnl.Carrier(parent.Attrs())}, nil
}

// isolate keeps a port's traffic to itself and the controller.
func (e *ensuring) isolate(port netlink.Link) error {
	name := port.Attrs().Name
	is, err := protinfo(port)
	if err != nil {
		return fmt.Errorf("cannot read the port %s: %w", name, err)
	}
	for _, flag := range []struct {
		what      string
		is, want  bool
		set       func(netlink.Link, bool) error
		mandatory string
	}{
		{"isolated", is.Isolated, true, netlink.LinkSetIsolated, "a kernel from 4.18 on can"},
		{"learning", is.Learning, false, netlink.LinkSetLearning, ""},
		{"flood", is.Flood, false, netlink.LinkSetFlood, ""},
	} {
		if flag.is == flag.want {
			continue
		}
		err := flag.set(port, flag.want)
		if err == nil && flag.mandatory != "" { // an old kernel does not know the attribute, and ignores it
			if is, err = protinfo(port); err == nil && !is.Isolated {
				err = errors.New(flag.mandatory)
			}
		}
		if err != nil {
			return fmt.Errorf("cannot set %s=%t of the port %s: %w", flag.what, flag.want, name, err)
		}
		e.repaired("set %s=%t of %s", flag.what, flag.want, name)
	}
	return nil
}

// protinfo reads a port's flags, whole.
func protinfo(port netlink.Link) (netlink.Protinfo, error) {
	list, err := rtnl.List(func() ([]netlink.Protinfo, error) {
		p, err := netlink.LinkGetProtinfo(port)
		return []netlink.Protinfo{p}, err
	})
	if err != nil {
		return netlink.Protinfo{}, err
	}
	return list[0], nil
}

// entries bind a slot's MAC address to its port, and its address to that.
func (e *ensuring) entries(bridge, port netlink.Link, slot int) error {
	mac, name := clusterctrl.NodeMAC(slot), port.Attrs().Name
	if !slices.ContainsFunc(e.forwarding, func(n netlink.Neigh) bool {
		return bytes.Equal(n.HardwareAddr, mac) && n.LinkIndex == port.Attrs().Index && n.State&unix.NUD_NOARP != 0
	}) {
		err := netlink.NeighSet(&netlink.Neigh{Family: unix.AF_BRIDGE, LinkIndex: port.Attrs().Index, HardwareAddr: mac,
			State: unix.NUD_NOARP, Flags: netlink.NTF_MASTER})
		if err != nil {
			return fmt.Errorf("cannot bind %s to the port %s: %w", mac, name, err)
		}
		e.repaired("bound %s to %s", mac, name)
	}
	if slices.Contains(e.Slots, slot) {
		return nil // it was bound before the first port was there
	}
	return e.neighbour(bridge, slot)
}

// neighbour binds a slot's address to its MAC address.
func (e *ensuring) neighbour(bridge netlink.Link, slot int) error {
	addr, mac := SlotAddr(slot), clusterctrl.NodeMAC(slot)
	if slices.ContainsFunc(e.neighbours, func(n netlink.Neigh) bool {
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == addr && bytes.Equal(n.HardwareAddr, mac) && n.State&unix.NUD_PERMANENT != 0
	}) {
		return nil
	}
	err := netlink.NeighSet(&netlink.Neigh{Family: unix.AF_INET, LinkIndex: bridge.Attrs().Index, IP: addr.AsSlice(),
		HardwareAddr: mac, State: unix.NUD_PERMANENT})
	if err != nil {
		return fmt.Errorf("cannot bind %s to %s: %w", addr, mac, err)
	}
	e.repaired("bound %s to %s", addr, mac)
	return nil
}

// neighbours are brint's, forwarding is its table of MAC addresses.
func neighbours(bridge int) ([]netlink.Neigh, error) {
	entries, err := rtnl.List(func() ([]netlink.Neigh, error) {
		return netlink.NeighListExecute(netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(bridge)})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the neighbours of %s: %w", clusterctrl.InternalBridge, err)
	}
	return entries, nil
}

func forwarding(bridge int) ([]netlink.Neigh, error) {
	entries, err := rtnl.List(func() ([]netlink.Neigh, error) {
		return netlink.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the forwarding database of %s: %w", clusterctrl.InternalBridge, err)
	}
	return slices.DeleteFunc(entries, func(n netlink.Neigh) bool { return n.MasterIndex != bridge }), nil
}

// SlotOf tells which slot an address of the network of roots is bound to: by
// the neighbour's MAC address, the port that this is bound to, and the slot
// that the port is for. It is not known where any of them is missing, as for
// the controller's own address.
func SlotOf(ctx context.Context, addr netip.Addr) (slot int, known bool, err error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	addr = addr.Unmap()
	bridge, err := netlink.LinkByName(clusterctrl.InternalBridge)
	if rtnl.IsGone(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("cannot find %s: %w", clusterctrl.InternalBridge, err)
	}
	index := bridge.Attrs().Index
	known4, err := neighbours(index)
	if err != nil {
		return 0, false, err
	}
	var mac net.HardwareAddr
	for _, n := range known4 {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr && n.State&unix.NUD_PERMANENT != 0 {
			mac = n.HardwareAddr
		}
	}
	if len(mac) != 6 {
		return 0, false, nil
	}
	fdb, err := forwarding(index)
	if err != nil {
		return 0, false, err
	}
	for _, n := range fdb {
		if n.LinkIndex == index || n.State&unix.NUD_NOARP == 0 || !bytes.Equal(n.HardwareAddr, mac) {
			continue
		}
		port, err := netlink.LinkByIndex(n.LinkIndex)
		if rtnl.IsGone(err) { // pulled out since
			return 0, false, nil
		}
		if err != nil {
			return 0, false, fmt.Errorf("cannot read port %d of %s: %w", n.LinkIndex, clusterctrl.InternalBridge, err)
		}
		link, ok := strings.CutSuffix(port.Attrs().Name, fmt.Sprintf(".%d", VLAN))
		// All three must name one slot: no single table is believed.
		if slot, isSlot := slotOfLink(link); ok && isSlot && addr == SlotAddr(slot) && bytes.Equal(mac, clusterctrl.NodeMAC(slot)) {
			return slot, true, nil
		}
	}
	return 0, false, nil
}

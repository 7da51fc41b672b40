package bridge

import (
	"bytes"
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
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"hatchery/firstboot/networkd"
	"hatchery/internal/bridgeport"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/internal/rtnl"
)

// uplink is the LAN's port of br0 in CBRIDGE.
const uplink = "eth0"

// Ensure makes what the slots' network lacks and says how it stands. An error
// means that there is no br0 with the controller's address, so that no slot can
// reach it; what else is wrong is among the status's problems.
func Ensure(ctx context.Context, node *nodefile.Node, opt Options) (Status, error) {
	e := &ensuring{Options: opt.withDefaults(), node: node}
	err := e.run(ctx)
	for _, what := range e.status.Repaired {
		e.Log.Info("repaired the slots' network", "what", what)
	}
	return e.status, err
}

type ensuring struct {
	Options
	node   *nodefile.Node
	status Status
}

func (e *ensuring) repaired(format string, args ...any) {
	e.status.Repaired = append(e.status.Repaired, fmt.Sprintf(format, args...))
}

func (e *ensuring) problem(format string, args ...any) {
	e.status.Problems = append(e.status.Problems, fmt.Sprintf(format, args...))
}

// problemOrAwaited is a problem, but early in the boot.
func (e *ensuring) problemOrAwaited(format string, args ...any) {
	if e.Early() {
		e.status.Awaited = append(e.status.Awaited, fmt.Sprintf(format, args...))
		return
	}
	e.problem(format, args...)
}

func (e *ensuring) run(ctx context.Context) error {
	bridge, err := e.bridge(ctx)
	if err != nil {
		return err
	}
	// Before the first port: from then on there is traffic.
	e.forwarding()
	ok, err := e.firewall(ctx)
	e.status.Firewall = ok
	if err != nil {
		e.problem("%v", err)
	}
	if err := e.ports(bridge); err != nil {
		e.problem("%v", err)
	}
	if e.status.Ports, err = bridgeport.Ports(ctx); err != nil {
		return err
	}
	if e.node.Network == "cbridge" {
		e.lan(bridge)
	}
	e.uplink()
	ok, err = e.dockerUser(ctx)
	e.status.DockerUser = ok
	if err != nil {
		e.problemOrAwaited("%v", err)
	}
	e.names(ctx)
	return ctx.Err()
}

// bridge sees to br0, up and with the controller's address.
func (e *ensuring) bridge(ctx context.Context) (netlink.Link, error) {
	const name = clusterctrl.Bridge
	if err := networkd.Await(ctx, e.Networkd, e.Starts); err != nil {
		return nil, err
	}
	var link netlink.Link
	find := func() (bool, error) {
		var err error
		link, err = netlink.LinkByName(name)
		if err != nil && !rtnl.IsGone(err) {
			return false, fmt.Errorf("cannot look for %s: %w", name, err)
		}
		return err == nil, nil
	}
	there, err := e.settled(ctx, find)
	if err != nil {
		return nil, err
	}
	if !there {
		if err := e.make(); err != nil {
			return nil, err
		}
		if there, err = find(); !there {
			return nil, fmt.Errorf("%s went as soon as it was made: %w", name, err)
		}
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("%s is a link of kind %s, not a bridge: rename or remove it, the name is the slots' network's", name, link.Type())
	}
	a := link.Attrs()
	// In CBRIDGE it has eth0's, by a rule of udev's.
	if want := clusterctrl.BridgeMAC(); e.node.Network != "cbridge" && !bytes.Equal(a.HardwareAddr, want) {
		if err := netlink.LinkSetHardwareAddr(link, want); err != nil {
			return nil, fmt.Errorf("cannot give %s its MAC address %s: %w", name, want, err)
		}
		e.repaired("gave %s the MAC address %s in place of %s", name, want, a.HardwareAddr)
		a.HardwareAddr = want
	}
	e.status.Index, e.status.MAC = a.Index, a.HardwareAddr
	if a.Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("cannot switch %s on: %w", name, err)
		}
		e.repaired("switched %s on", name)
	}
	return link, e.address(ctx, link)
}

// make makes br0. Spanning tree is off, so a port forwards at once.
func (e *ensuring) make() error {
	var mac net.HardwareAddr
	if e.node.Network != "cbridge" {
		mac = clusterctrl.BridgeMAC()
	} else if lan, err := netlink.LinkByName(uplink); err == nil {
		mac = lan.Attrs().HardwareAddr
	}
	err := addBridge(clusterctrl.Bridge, mac)
	switch {
	case errors.Is(err, unix.EEXIST): // networkd was faster
		return nil
	case err != nil:
		return fmt.Errorf("cannot make %s: %w", clusterctrl.Bridge, err)
	}
	e.repaired("made %s", clusterctrl.Bridge)
	return nil
}

// addBridge makes a bridge. netlink.LinkAdd does too, and everything else that is a link:
// a hundred kilobytes of the agent, on every node.
func addBridge(name string, mac net.HardwareAddr) error {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if len(mac) > 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	r.AddData(info)
	_, err := r.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (e *ensuring) address(ctx context.Context, link netlink.Link) error {
	has := func() (bool, error) {
		addrs, err := rtnl.List(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
		if err != nil {
			return false, fmt.Errorf("cannot read the addresses of %s: %w", clusterctrl.Bridge, err)
		}
		return slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return rtnl.Prefix(a.IPNet) == e.node.Address }), nil
	}
	there, err := e.settled(ctx, has)
	if err != nil {
		return err
	}
	if !there {
		err := rtnl.AddAddr(link, e.node.Address, e.node.Network == "cbridge") // as networkd's file has it
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot give %s the address %s: %w", clusterctrl.Bridge, e.node.Address, err)
		}
		e.repaired("gave %s the address %s", clusterctrl.Bridge, e.node.Address)
	}
	e.status.Address = e.node.Address
	return nil
}

// settled waits for systemd-networkd, where it runs: br0 is its to make.
func (e *ensuring) settled(ctx context.Context, done func() (bool, error)) (bool, error) {
	for began := time.Now(); ; {
		ok, err := done()
		if ok || err != nil {
			return ok, err
		}
		if _, err := os.Stat(filepath.Join(e.Networkd, "links")); err != nil || time.Since(began) >= e.Settle {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ports makes the slots' links ports of br0 and switches them on.
func (e *ensuring) ports(bridge netlink.Link) error {
	links, err := rtnl.Links()
	if err != nil {
		return err
	}
	for _, link := range links {
		a := link.Attrs()
		slot, ok := slotLink(link.Type(), a.HardwareAddr)
		if !ok {
			continue
		}
		switch a.MasterIndex {
		case bridge.Attrs().Index:
		case 0:
			// By index: udev may be renaming it.
			err := netlink.LinkSetMasterByIndex(link, bridge.Attrs().Index)
			if rtnl.IsGone(err) {
				continue // its event follows
			}
			if err != nil {
				e.problem("slot %d's link %s is not made a port of %s: %v", slot, a.Name, clusterctrl.Bridge, err)
				continue
			}
			e.repaired("made slot %d's link %s a port of %s", slot, a.Name, clusterctrl.Bridge)
		default:
			e.problem("slot %d's link %s is a port of another bridge: remove it there", slot, a.Name)
			continue
		}
		if a.Flags&net.FlagUp != 0 {
			continue
		}
		if err := netlink.LinkSetUp(link); err != nil && !rtnl.IsGone(err) {
			e.problem("slot %d's link %s cannot be switched on: %v", slot, a.Name, err)
		} else if err == nil {
			e.repaired("switched slot %d's link %s on", slot, a.Name)
		}
	}
	return nil
}

// slotLink says which slot's a link is. What is stacked on one is none.
func slotLink(kind string, mac net.HardwareAddr) (slot int, ok bool) {
	if rtnl.Stacked(kind) {
		return 0, false
	}
	return bridgeport.SlotOfMAC(mac)
}

// forwarding has the kernel forward. It does before Docker starts, or else
// Docker switches it on and has the packet filter drop what is not its own.
func (e *ensuring) forwarding() {
	for _, setting := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/" + clusterctrl.Bridge + "/forwarding"} {
		path := filepath.Join(e.Sysctl, setting)
		value, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(value)) != "1" {
			if err = os.WriteFile(path, []byte("1\n"), 0); err == nil {
				e.repaired("set %s to 1", setting)
			}
		}
		if err != nil {
			e.problem("nothing is forwarded: %v", err)
			return
		}
	}
	e.status.Forwarding = true
}

// lan checks what is networkd's in CBRIDGE.
func (e *ensuring) lan(bridge netlink.Link) {
	link, err := netlink.LinkByName(uplink)
	switch {
	case rtnl.IsGone(err):
		e.problem("there is no %s: the slots do not reach the LAN", uplink)
	case err != nil:
		e.problem("cannot read %s: %v", uplink, err)
	case link.Attrs().MasterIndex != bridge.Attrs().Index:
		e.problem("%s is no port of %s: the slots do not reach the LAN, see networkctl status %s", uplink, clusterctrl.Bridge, uplink)
	case !bytes.Equal(link.Attrs().HardwareAddr, bridge.Attrs().HardwareAddr):
		e.problem("%s has not the MAC address of %s: the LAN may give it another address by DHCP", clusterctrl.Bridge, uplink)
	}
}

// uplink finds the way out. To have none is no problem: a cluster may live
// without.
func (e *ensuring) uplink() {
	routes, err := rtnl.DefaultRoutes()
	if err != nil {
		e.problem("%v", err)
		return
	}
	best := -1
	for _, r := range routes {
		if best >= 0 && r.Priority >= best {
			continue
		}
		if link, err := netlink.LinkByIndex(r.Link); err == nil {
			best, e.status.Uplink = r.Priority, link.Attrs().Name
		}
	}
}

// names checks that the slots' name server answers, with the controller's own
// name.
func (e *ensuring) names(ctx context.Context) {
	server := netip.AddrPortFrom(e.node.ControllerAddr, 53)
	addrs, err := ask(ctx, server, e.node.Hostname, e.Patience)
	switch {
	case err == nil && slices.Contains(addrs, e.node.ControllerAddr):
		e.status.Names = true
	case err == nil:
		e.problem("the name server says that %s is %v, not %s: see /etc/hatchery/hosts", e.node.Hostname, addrs, e.node.ControllerAddr)
	case ctx.Err() != nil:
	case e.Units == nil:
		e.problem("the name server on %s does not work: %v (see systemctl status %s)", server, err, NameServer)
	default:
		if serr := e.Units.StartUnit(ctx, NameServer); serr != nil {
			e.problem("the name server on %s does not work (%v) and cannot be started: %v", server, err, serr)
			return
		}
		e.problemOrAwaited("the name server on %s does not work (yet): %v (see systemctl status %s)", server, err, NameServer)
	}
}

// Watch tells whenever something may have changed of the slots' network, and
// once at the beginning, until ctx ends. Ensure says what it was. Docker's
// work on the packet filter is among it.
func Watch(ctx context.Context, _ *nodefile.Node, opt Options) <-chan struct{} {
	return rtnl.Watch(ctx, rtnl.WatchOptions{
		Log:          opt.Log,
		PacketFilter: true,
		Links: func(l rtnl.Link) bool {
			_, slots := slotLink(l.Kind, l.MAC)
			return slots || l.Name == clusterctrl.Bridge || l.Name == uplink
		},
	})
}

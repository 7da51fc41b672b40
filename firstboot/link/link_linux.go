package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hatchery/firstboot/networkd"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/internal/rtnl"
)

// Ensure makes what the node's link lacks and says how it stands. The error
// wraps ErrNoLink, ErrNoCarrier or ErrSilent where one of them is the reason;
// the status holds what is known all the same. A controller that refuses the
// connection is no error: the link works.
func Ensure(ctx context.Context, node *nodefile.Node, opt Options) (Status, error) {
	e := &ensuring{Options: opt.withDefaults(), node: node}
	err := e.run(ctx)
	for _, what := range e.status.Repaired {
		e.Log.Info("repaired the link", "link", e.status.Link.Name, "what", what)
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

func (e *ensuring) run(ctx context.Context) error {
	if err := networkd.Await(ctx, e.Networkd, e.Starts); err != nil {
		return err
	}
	link, err := e.find()
	if err != nil {
		return err
	}
	// Before udev has named it, it is networkd's to wait: a link that is up is
	// not renamed.
	index := link.Attrs().Index
	if err := networkd.AwaitNamed(ctx, e.Networkd, index, e.Starts); err != nil {
		return err
	}
	if link, err = netlink.LinkByIndex(index); err != nil {
		return e.lost(err)
	}
	link, err = e.ownMAC(link)
	if err != nil {
		return err
	}
	a := link.Attrs()
	e.status.Link = Link{Index: a.Index, Name: a.Name, MAC: a.HardwareAddr}
	if err := e.up(link); err != nil {
		return err
	}
	if err := e.address(ctx, link); err != nil {
		return err
	}
	if e.node.Network != "cbridge" { // where the LAN's router is the way out, by DHCP
		if err := e.route(link); err != nil {
			return err
		}
	}
	// Read again: up may have brought it.
	link, err = netlink.LinkByIndex(a.Index)
	if err != nil {
		return e.lost(err)
	}
	e.status.Carrier = rtnl.Carrier(link.Attrs())
	if !e.status.Carrier {
		return fmt.Errorf("%w: %s is up, but the controller has not taken the USB device (yet)", ErrNoCarrier, a.Name)
	}
	if err := e.source(); err != nil {
		return err
	}
	e.status.Controller, err = dial(ctx, e.node.Address.Addr(), e.node.ControllerAddr, e.Port, e.Patience)
	return err
}

// lost makes an error of one that may mean that the link went meanwhile.
func (e *ensuring) lost(err error) error {
	if rtnl.IsGone(err) {
		return fmt.Errorf("%w: %s has gone", ErrNoLink, e.status.Link.Name)
	}
	return fmt.Errorf("cannot read the link %s: %w", e.status.Link.Name, err)
}

// find gives the interface with the slot's MAC address, or the only one on USB.
func (e *ensuring) find() (netlink.Link, error) {
	links, err := rtnl.Links()
	if err != nil {
		return nil, err
	}
	want := clusterctrl.NodeMAC(e.node.Slot)
	var own, usb []netlink.Link
	var names []string
	for _, link := range links {
		a := link.Attrs()
		switch {
		case isOwn(link.Type(), a.HardwareAddr, want):
			own = append(own, link)
		case e.onUSB(a):
			usb = append(usb, link)
			names = append(names, a.Name)
		}
	}
	if len(own) > 0 {
		// Of several the first that came: what is stacked on a link came later.
		return own[0], nil
	}
	switch len(usb) {
	case 0:
		return nil, fmt.Errorf("%w: no interface has the MAC address %s, and none is on USB: was the USB gadget made?", ErrNoLink, want)
	case 1:
		return usb[0], nil
	}
	return nil, fmt.Errorf("%w: no interface has the MAC address %s, and of %s nobody can tell which it is: unplug the others",
		ErrNoLink, want, strings.Join(names, " and "))
}

// isOwn says whether an interface is the slot's end of the link.
func isOwn(kind string, mac, want net.HardwareAddr) bool {
	return !rtnl.Stacked(kind) && bytes.Equal(mac, want)
}

// onUSB says whether an interface is a USB device's, or the gadget's, and no
// radio.
func (e *ensuring) onUSB(a *netlink.LinkAttrs) bool {
	dir := filepath.Join(e.Sysfs, "class/net", a.Name)
	// sysfs may show the interfaces of another network namespace.
	index, err := os.ReadFile(filepath.Join(dir, "ifindex"))
	if err != nil || strings.TrimSpace(string(index)) != strconv.Itoa(a.Index) {
		return false
	}
	for _, radio := range []string{"wireless", "phy80211"} {
		if _, err := os.Lstat(filepath.Join(dir, radio)); err == nil {
			return false
		}
	}
	device, err := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	if err != nil {
		return false
	}
	// The gadget's device is "gadget" up to Linux 5.18, "gadget.0" since.
	if name := filepath.Base(device); name == "gadget" || strings.HasPrefix(name, "gadget.") {
		return true
	}
	subsystem, err := filepath.EvalSymlinks(filepath.Join(device, "subsystem"))
	return err == nil && filepath.Base(subsystem) == "usb"
}

// ownMAC gives the interface the slot's MAC address, which the controller's
// side knows a node by.
func (e *ensuring) ownMAC(link netlink.Link) (netlink.Link, error) {
	a := link.Attrs()
	want := clusterctrl.NodeMAC(e.node.Slot)
	if bytes.Equal(a.HardwareAddr, want) {
		return link, nil
	}
	// Few drivers change the address of a link that is up.
	err := netlink.LinkSetHardwareAddr(link, want)
	if errors.Is(err, unix.EBUSY) {
		if e.node.Root != "" && e.node.Root != "card" {
			return nil, fmt.Errorf("%s has not the MAC address %s, and stays on while the root file system comes over it: power-cycle the slot", a.Name, want)
		}
		if err = netlink.LinkSetDown(link); err == nil {
			err = netlink.LinkSetHardwareAddr(link, want)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot give %s the MAC address %s: %w", a.Name, want, err)
	}
	e.repaired("gave it the MAC address %s in place of %s", want, a.HardwareAddr)
	link, err = netlink.LinkByIndex(a.Index)
	if err != nil {
		return nil, e.lost(err)
	}
	return link, nil
}

func (e *ensuring) up(link netlink.Link) error {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot switch %s on: %w", link.Attrs().Name, err)
	}
	e.repaired("switched it on")
	return nil
}

// address sees to the node's own address.
func (e *ensuring) address(ctx context.Context, link netlink.Link) error {
	has := func() (bool, error) {
		addrs, err := rtnl.List(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
		if err != nil {
			return false, e.lost(err)
		}
		for _, a := range addrs {
			if rtnl.Prefix(a.IPNet) == e.node.Address {
				e.status.Address = e.node.Address
				return true, nil
			}
		}
		return false, nil
	}
	there, err := e.settled(ctx, link, has)
	if there || err != nil {
		return err
	}
	err = rtnl.AddAddr(link, e.node.Address, e.node.Network == "cbridge") // as networkd's file has it
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot give %s the address %s: %w", link.Attrs().Name, e.node.Address, err)
	}
	e.status.Address = e.node.Address
	e.repaired("gave it the address %s", e.node.Address)
	return nil
}

// settled waits for systemd-networkd, where it runs and has the link.
func (e *ensuring) settled(ctx context.Context, link netlink.Link, done func() (bool, error)) (bool, error) {
	for began := time.Now(); ; {
		ok, err := done()
		if ok || err != nil {
			return ok, err
		}
		if time.Since(began) >= e.Settle || !e.networkdHas(link.Attrs().Index) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// networkdHas says whether systemd-networkd is still at work on a link. Its file
// of a link (sd-network, private) says unmanaged where it leaves it alone.
func (e *ensuring) networkdHas(index int) bool {
	switch admin, there := networkd.Admin(e.Networkd, index); admin {
	case "unmanaged", "failed", "linger":
		return false
	default:
		return there
	}
}

// route sees to the default route by the controller. One that leads elsewhere
// stays: somebody made it.
func (e *ensuring) route(link netlink.Link) error {
	name, controller := link.Attrs().Name, e.node.ControllerAddr
	there := func() (bool, error) {
		routes, err := rtnl.DefaultRoutes()
		for _, r := range routes {
			if r.Link == link.Attrs().Index && r.Gateway == controller {
				e.status.Gateway = controller
				return true, nil
			}
		}
		return false, err
	}
	if is, err := there(); is || err != nil {
		return err
	}
	err := rtnl.AddDefault(link.Attrs().Index, controller)
	switch {
	case errors.Is(err, unix.EEXIST):
		// systemd-networkd may have made it meanwhile.
		if is, err := there(); is || err != nil {
			return err
		}
		e.status.Notes = append(e.status.Notes, "another default route has the place of the controller's")
		return nil
	case err != nil:
		return fmt.Errorf("cannot make the default route by %s (%s): %w", controller, name, err)
	}
	e.status.Gateway = controller
	e.repaired("made the default route by %s", controller)
	return nil
}

// source says where the way to the controller is not the link's, or not from
// the node's own address: the controller would take it for another slot.
func (e *ensuring) source() error {
	way, err := rtnl.RouteTo(e.node.ControllerAddr)
	if err != nil {
		return fmt.Errorf("there is no way to the controller's address %s: %w", e.node.ControllerAddr, err)
	}
	switch {
	case way.Link != e.status.Link.Index:
		other := "another interface"
		if link, err := netlink.LinkByIndex(way.Link); err == nil {
			other = link.Attrs().Name
		}
		e.status.Notes = append(e.status.Notes, fmt.Sprintf("the way to %s is by %s: it has an address or a route of %s",
			e.node.ControllerAddr, other, clusterctrl.Network))
	case way.Source != e.node.Address.Addr():
		e.status.Notes = append(e.status.Notes, fmt.Sprintf("%s has the address %s too, which comes first: remove it", e.status.Link.Name, way.Source))
	}
	return nil
}

// Watch tells whenever something may have changed of the node's link, and once
// at the beginning, until ctx ends. Ensure says what it was.
func Watch(ctx context.Context, node *nodefile.Node, opt Options) <-chan struct{} {
	mac := clusterctrl.NodeMAC(node.Slot)
	return rtnl.Watch(ctx, rtnl.WatchOptions{
		Log: opt.Log,
		// A link that is to be given the address has a driver of its own.
		// Containers' links come and go without a word.
		Links: func(l rtnl.Link) bool { return isOwn(l.Kind, l.MAC, mac) || l.Kind == "device" },
	})
}

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

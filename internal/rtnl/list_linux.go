package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attempts is how often a list is asked for that changes while it is read.
const attempts = 5

// List asks the kernel for a list, and again if it changed while it was read.
// One that never stops changing is taken as it is: the change is told by Watch.
func List[T any](ask func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		entries, err := ask()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return entries, err
		}
		if try == attempts {
			return entries, nil
		}
	}
}

// Links lists the network interfaces in the order in which they came.
func Links() ([]netlink.Link, error) {
	links, err := List(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list the network interfaces: %w", err)
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return a.Attrs().Index - b.Attrs().Index })
	return links, nil
}

// IsGone says whether an error means that a link does not exist (any more).
func IsGone(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV)
}

// Prefix gives an address as the netlink library has it as a prefix, the zero
// one where it is none.
func Prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr.Unmap(), ones)
}

// Addr gives a prefix as the netlink library wants it.
func Addr(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
}

// AddAddr gives a link an address. With inner set it has the scope of the link: the
// kernel takes it for nothing that goes further, and nobody announces it there. Where
// that cannot be, beside another address of the network, it is one like any other.
func AddAddr(link netlink.Link, p netip.Prefix, inner bool) error {
	addr := Addr(p)
	if inner {
		addr.Scope = unix.RT_SCOPE_LINK
	}
	err := netlink.AddrAdd(link, addr)
	if inner && errors.Is(err, unix.EINVAL) {
		err = netlink.AddrAdd(link, Addr(p))
	}
	return err
}

// Carrier says whether a link is up and somebody is at its other end. The
// operational state says the same, but is set a moment later.
func Carrier(a *netlink.LinkAttrs) bool { return a.RawFlags&unix.IFF_LOWER_UP != 0 }

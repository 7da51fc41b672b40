package rtnl

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Route is a way by one link, of IPv4. It is not the library's: that knows every kind
// of route, which is a hundred kilobytes of the agent on every node.
type Route struct {
	Link     int        // the interface's index
	Gateway  netip.Addr // the zero one for what is on the link itself
	Source   netip.Addr // the own address that is used; the zero one where the route does not say
	Priority int        // the lowest counts

	table, length, kind int
}

// parseRoute reads what the kernel says of a route (rtnetlink(7)).
func parseRoute(m []byte) (r Route, err error) {
	if len(m) < unix.SizeofRtMsg {
		return r, errors.New("a route is cut short")
	}
	head := nl.DeserializeRtMsg(m)
	attributes, err := nl.ParseRouteAttr(m[head.Len():])
	if err != nil {
		return r, err
	}
	r.table, r.length, r.kind = int(head.Table), int(head.Dst_len), int(head.Type)
	number := func(b []byte) int {
		if len(b) < 4 {
			return 0
		}
		return int(nl.NativeEndian().Uint32(b))
	}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_TABLE: // the head has room for 255 of them
			r.table = number(a.Value)
		case unix.RTA_OIF:
			r.Link = number(a.Value)
		case unix.RTA_PRIORITY:
			r.Priority = number(a.Value)
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(a.Value)
		}
	}
	return r, nil
}

// askRoutes asks the kernel for routes.
func askRoutes(flags int, head *nl.RtMsg, more ...nl.NetlinkRequestData) ([]Route, error) {
	r := nl.NewNetlinkRequest(unix.RTM_GETROUTE, flags)
	r.AddData(head)
	for _, d := range more {
		r.AddData(d)
	}
	answers, failed := r.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	var all []Route
	for _, m := range answers {
		route, err := parseRoute(m)
		if err != nil {
			return nil, err
		}
		all = append(all, route)
	}
	return all, failed // what has changed meanwhile is a list too
}

// DefaultRoutes lists the main table's ways to everything.
func DefaultRoutes() ([]Route, error) {
	all, err := List(func() ([]Route, error) {
		head := &nl.RtMsg{}
		head.Family = unix.AF_INET
		return askRoutes(unix.NLM_F_DUMP, head)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the routes: %w", err)
	}
	var out []Route
	for _, r := range all {
		if r.length == 0 && r.table == unix.RT_TABLE_MAIN && r.kind == unix.RTN_UNICAST {
			out = append(out, r)
		}
	}
	return out, nil
}

// RouteTo gives the way that the kernel takes to an address.
func RouteTo(to netip.Addr) (Route, error) {
	head := &nl.RtMsg{}
	head.Family, head.Dst_len = unix.AF_INET, uint8(to.BitLen())
	all, err := askRoutes(0, head, nl.NewRtAttr(unix.RTA_DST, to.AsSlice()))
	if err == nil && len(all) == 0 {
		err = unix.ENETUNREACH
	}
	if err != nil {
		return Route{}, err
	}
	return all[0], nil
}

// AddDefault makes a way to everything in the main table. The error matches unix.EEXIST
// where there is one with the same priority.
func AddDefault(link int, gateway netip.Addr) error {
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	head := nl.NewRtMsg() // of the main table, a unicast
	head.Family, head.Protocol = unix.AF_INET, unix.RTPROT_STATIC
	r.AddData(head)
	r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice()))
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(link))))
	_, err := r.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

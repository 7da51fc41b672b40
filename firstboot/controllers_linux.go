package firstboot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"hatchery/firstboot/founding"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// otherControllers are the addresses on the LAN of the other controllers, where
// there are several.
func (e *environment) otherControllers() []netip.Addr {
	var addrs []netip.Addr
	for _, c := range e.node.Others() {
		addrs = append(addrs, c.Address)
	}
	return addrs
}

// otherManagers are the other controllers, for one of several.
func (e *environment) otherManagers() map[string]founding.Controller {
	others := map[string]founding.Controller{}
	for _, c := range e.node.Others() {
		others[c.Name] = enrol.NewClient(e.identity, c.Address, enrol.ClientOptions{Local: e.node.SwarmAddr(), Now: e.Now})
	}
	return others
}

// otherAnswers says whether another controller takes calls. It is for a node whose
// own is silent.
func (e *environment) otherAnswers(ctx context.Context) bool {
	for _, addr := range e.otherControllers() {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		c, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(addr, enrol.Port).String())
		cancel()
		if err == nil {
			c.Close()
			return true
		}
	}
	return false
}

// towards is the address by which this machine reaches a manager on the LAN. No
// packet is sent.
func towards(manager netip.Addr) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(manager, enrol.Port)))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("there is no way to the manager %s: %w", manager, err)
	}
	defer c.Close()
	own, ok := netip.AddrFromSlice(c.LocalAddr().(*net.UDPAddr).IP)
	switch own = own.Unmap(); {
	case !ok || !own.Is4():
		return netip.Addr{}, fmt.Errorf("there is no way to the manager %s by IPv4", manager)
	case clusterctrl.Network.Contains(own):
		return netip.Addr{}, fmt.Errorf("the LAN has given this machine no address yet, by which it reaches the manager %s", manager)
	}
	return own, nil
}

package clustertest

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
	"hatchery/internal/identity"
	"hatchery/internal/netspace"
	"hatchery/internal/nodefile"
	"hatchery/internal/spec"
	"hatchery/internal/testtool"
	"hatchery/overlays"
)

// several are the HATs of one cluster with several controllers: each is a lab of its
// own, and their controllers are plugged into one LAN.
type several struct {
	t     testing.TB
	store *identity.Store
	lan   *netspace.LAN
	hats  [][]int // the slots of each
	made  int
}

// NewSeveral makes a cluster with a controller for each of these lists of slots. The
// machines have their addresses on the LAN from the start, as networkd and a DHCP
// server with reservations give them.
func NewSeveral(t testing.TB, o Options, hats ...[]int) []*Cluster {
	t.Helper()
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), Name)
	if err != nil {
		t.Fatal(err)
	}
	s := &several{t: t, store: store, lan: netspace.NewLAN(t), hats: hats}
	for i := range hats {
		store.Reached(spec.ControllerTarget(i), lanAddr(i))
	}
	var clusters []*Cluster
	for i, slots := range hats {
		each := o
		each.Slots, each.among = slots, s
		s.made = i
		clusters = append(clusters, New(t, each))
	}
	return clusters
}

// lanAddr is a controller's address on the LAN, and slotLANAddr a slot's.
func lanAddr(hat int) netip.Addr      { return netip.AddrFrom4([4]byte{192, 168, 1, byte(11 + hat)}) }
func slotLANAddr(slot int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 1, byte(50 + slot)}) }

// plug names a lab's controller, and gives its machines their addresses on the LAN.
// Its eth0 is down until its packet filter is there.
func (s *several) plug(c *Cluster) *identity.Store {
	s.t.Helper()
	m, bits := c.Controller, netspace.LANNetwork.Bits()
	m.Name, m.Hostname = spec.ControllerTarget(s.made), spec.ControllerTarget(s.made)
	netns := filepath.Base(m.NetNS())
	mac := fmt.Sprintf("02:00:00:00:00:%02x", 0x11+s.made)
	ip := func(args ...string) { s.t.Helper(); testtool.Run(s.t, "ip", args...) }
	s.lan.Plug(netns, "eth0", mac)
	ip("-n", netns, "link", "set", clusterctrl.Bridge, "address", mac)
	ip("-n", netns, "link", "set", "eth0", "master", clusterctrl.Bridge)
	ip("-n", netns, "addr", "add", netip.PrefixFrom(lanAddr(s.made), bits).String(), "dev", clusterctrl.Bridge)
	for _, slot := range c.Slots() {
		ip("-n", filepath.Base(slot.NetNS()), "addr", "add", netip.PrefixFrom(slotLANAddr(slot.Slot), bits).String(), "dev", slot.Link())
	}
	return s.store
}

// rules lays the packet filter of a controller and loads it, and lets the LAN in.
func (s *several) rules(c *Cluster) {
	s.t.Helper()
	m := c.Controller
	d := overlays.Data{
		Cluster: Name, Name: m.Name, Hostname: m.Hostname, User: overlays.User{Name: "pi"}, Network: overlays.CBRIDGE, Release: "bookworm",
		Timezone: "Etc/UTC", Locale: "C.UTF-8", Docker: overlays.Docker{Packages: []string{"docker.io"}}, MachineID: strings.Repeat("0a", 16), Epoch: time.Unix(1763769600, 0),
	}
	for _, other := range c.Machines() {
		d.Hosts = append(d.Hosts, overlays.Host{Name: other.Name, Slot: other.Slot, Hostname: other.Hostname})
	}
	for _, one := range s.known(m) {
		d.Controllers = append(d.Controllers, overlays.Controller{Name: one.Name, Hostname: one.Hostname, Address: one.Address})
	}
	entries, err := overlays.Render(d, overlays.Trees(true)...)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Path {
		case "/etc/hatchery/firewall.nft":
			c.write(m, "firewall.nft", e.Content, 0o644)
		case "/usr/lib/hatchery/docker-user":
			c.write(m, "docker-user", e.Content, 0o755)
		}
	}
	testtool.Run(s.t, "nsenter", "--net="+m.NetNS(), "--", "nft", "-f", filepath.Join(m.Etc(), "firewall.nft"))
	testtool.Run(s.t, "ip", "-n", filepath.Base(m.NetNS()), "link", "set", "eth0", "up")
}

// known are the controllers as a machine's node.json has them.
func (s *several) known(m *enginetest.Machine) []nodefile.OneController {
	var all []nodefile.OneController
	for i, slots := range s.hats {
		one := nodefile.OneController{Name: spec.ControllerTarget(i), Hostname: spec.ControllerTarget(i), Address: lanAddr(i)}
		if m.Slot == 0 && m.Name != one.Name {
			for _, n := range slots {
				one.Slots = append(one.Slots, nodefile.Target{
					Name: clusterctrl.SlotName(n), Slot: n, Hostname: clusterctrl.SlotName(n), Address: clusterctrl.SlotAddr(n),
					Model: "zero", Arch: "armv6", Generation: 1,
				})
			}
		}
		all = append(all, one)
	}
	return all
}

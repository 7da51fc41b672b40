package clustertest_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"hatchery/controller/clustertest"
	"hatchery/firstboot/founding"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
	"hatchery/internal/netspace"
)

// A bridged is a cluster in CBRIDGE, on somebody's LAN.
type bridged struct {
	*clustertest.Cluster
	t    *testing.T
	lan  *netspace.LAN
	sent *netspace.Wire // all that the controller sends to the LAN
}

// hostileMAC is of a host of the LAN that means ill. It is in every frame that it
// sends under its own name.
const hostileMAC = "02:00:00:00:00:66"

// space is a machine's network.
func (b *bridged) space(m *enginetest.Machine) *netspace.Space {
	return netspace.In(b.t, filepath.Base(m.NetNS()))
}

// mac is a machine's MAC address on the LAN.
func mac(m *enginetest.Machine) string {
	if m.Slot == 0 {
		return clustertest.LANMAC
	}
	return clusterctrl.NodeMAC(m.Slot).String()
}

// leased waits until a machine has the address that the LAN's DHCP server gave it, and
// gives that.
func (b *bridged) leased(m *enginetest.Machine) netip.Addr {
	b.t.Helper()
	var lease netip.Addr
	netspace.Eventually(b.t, "a lease of "+m.Name, func() error {
		lease = b.lan.Lease(mac(m))
		if out := b.space(m).IP("-4 -o addr show dev " + m.Link()); !lease.IsValid() || !strings.Contains(out, lease.String()+"/24") {
			return fmt.Errorf("the server gave %v: %s\n%s", lease, out, b.lan.Served())
		}
		return nil
	})
	return lease
}

// listen listens on UDP somewhere.
func (b *bridged) listen(s *netspace.Space, addr string) net.PacketConn {
	b.t.Helper()
	var c net.PacketConn
	must(b.t, s.Do(func() (err error) {
		c, err = net.ListenPacket("udp", addr)
		return err
	}))
	b.t.Cleanup(func() { c.Close() })
	return c
}

// reaches says whether a datagram gets from one place to another.
func (b *bridged) reaches(from *netspace.Space, to net.PacketConn, addr string) error {
	return from.Do(func() error {
		c, err := net.Dial("udp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		word := fmt.Sprintf("word %d", time.Now().UnixNano())
		buf := make([]byte, 2048)
		for range 3 {
			if _, err := c.Write([]byte(word)); err != nil {
				return err
			}
			must(b.t, to.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
			for {
				n, _, err := to.ReadFrom(buf)
				if err != nil {
					break
				}
				if string(buf[:n]) == word {
					return nil
				}
			}
		}
		return fmt.Errorf("nothing arrives at %s", addr)
	})
}

// TestCBRIDGE: a cluster of real engines on a LAN with a DHCP server. Everybody has an
// address there, and the swarm, enrolment and the tasks' network are on the inner ones,
// which the LAN neither sees nor reaches; while the lease changes and while eth0's cable
// is out, nothing of that notices.
func TestCBRIDGE(t *testing.T) {
	lan := netspace.NewLAN(t)
	c := clustertest.New(t, clustertest.Options{Slots: []int{1, 2}, LAN: lan, Intervals: quick, Founding: founding.Waits{Settle: 3 * time.Second}})
	b := &bridged{Cluster: c, t: t, lan: lan, sent: lan.Tap(clustertest.LANMAC)}
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	b.namesOnTheLAN()
	c.WaitSettled() // with the inner addresses
	b.swarmOnInnerAddresses()
	tasks := b.service()
	b.lanAndBack()
	b.containers()
	b.hostile()
	b.leaseChanges()
	b.cablePulled(tasks)
	if leaks := netspace.SendersIn(b.sent.Heard(), clusterctrl.Network); leaks != nil {
		t.Errorf("%d frames with inner addresses on the LAN, the first: %s", len(leaks), leaks[0])
	}
	for _, f := range b.sent.Heard() {
		if announcesInner(f) {
			t.Errorf("an inner address is announced on the LAN: %x", f)
		}
	}
	if n := len(b.sent.Heard()); n < 20 {
		t.Errorf("the controller sent %d frames to the LAN, leases and names among them", n)
	}
}

// swarmOnInnerAddresses looks at what engines and service say of themselves, and where
// they listen.
func (b *bridged) swarmOnInnerAddresses() {
	b.t.Helper()
	for _, m := range b.Machines() {
		out, err := m.Docker(b.t.Context(), "info", "--format", "{{.Swarm.NodeAddr}}{{range .Swarm.RemoteManagers}} {{.Addr}}{{end}}")
		must(b.t, err)
		if want := m.Addr.String() + " 172.19.181.254:2377"; strings.TrimSpace(out) != want {
			b.t.Errorf("%s's engine says %q, wanted %q", m.Name, out, want)
		}
	}
	for _, port := range []string{"2377", "7443"} {
		out := b.Run(b.Controller, "ss", "-Hltn", "sport = :"+port)
		if strings.Count(out, "\n") != 1 || !strings.Contains(out, " 172.19.181.254:"+port+" ") {
			b.t.Errorf("port %s listens on\n%s", port, out)
		}
	}
}

// service runs a service with a task on each slot, and has the tasks speak to each
// other over the swarm's network: VIPs need more of a kernel than there is.
func (b *bridged) service() func() error {
	b.t.Helper()
	image := idler(b.t)
	for _, m := range b.Machines() {
		_, err := m.Docker(b.t.Context(), "import", "--change", `CMD ["/idle"]`, image, "idle:1")
		must(b.t, err)
	}
	docker(b.t, b.Cluster, "network", "create", "--driver", "overlay", "tasks")
	docker(b.t, b.Cluster, "service", "create", "--detach", "--no-resolve-image", "--name", "web", "--mode", "global",
		"--constraint", "node.role==worker", "--restart-delay", "1s", "--network", "tasks", "--endpoint-mode", "dnsrr", "idle:1")
	var spaces []*netspace.Space
	var addrs []string
	for _, m := range b.Slots() {
		until(b.t, "the task of "+m.Name, func() bool {
			id, err := m.Docker(b.t.Context(), "ps", "--no-trunc", "--quiet")
			if err != nil || strings.TrimSpace(id) == "" {
				return false
			}
			pid, err := strconv.Atoi(idling(b.t, strings.TrimSpace(id)))
			if err != nil {
				return false
			}
			addr, err := m.Docker(b.t.Context(), "inspect", "--format", "{{.NetworkSettings.Networks.tasks.IPAddress}}", strings.TrimSpace(id))
			if err != nil || strings.TrimSpace(addr) == "" {
				return false
			}
			spaces, addrs = append(spaces, netspace.Of(b.t, pid)), append(addrs, strings.TrimSpace(addr))
			return true
		})
	}
	if len(addrs) == 2 && addrs[0] == addrs[1] {
		b.t.Fatalf("both tasks have %s", addrs[0])
	}
	first := b.listen(spaces[0], ":9000")
	tasks := func() error { return b.reaches(spaces[1], first, addrs[0]+":9000") }
	netspace.Eventually(b.t, "a task hears the other", tasks)
	return tasks
}

// lanAndBack: a slot gets names and the Internet from the LAN's router, and a host of the
// LAN gets to a slot, by the LAN's addresses.
func (b *bridged) lanAndBack() {
	b.t.Helper()
	host := b.lan.Host("192.168.1.20", "02:00:00:00:00:20")
	outside := b.listen(b.lan.Router, netspace.Internet.String()+":9001")
	for _, m := range b.Machines() {
		lease := b.leased(m)
		if !netspace.LANNetwork.Contains(lease) {
			b.t.Errorf("%s has %s", m.Name, lease)
		}
		netspace.Eventually(b.t, m.Name+"'s way to the Internet", func() error { return b.reaches(b.space(m), outside, outside.LocalAddr().String()) })
		ssh := b.listen(b.space(m), lease.String()+":9022")
		netspace.Eventually(b.t, "the LAN's way to "+m.Name, func() error { return b.reaches(host, ssh, ssh.LocalAddr().String()) })
		netspace.Eventually(b.t, "names for "+m.Name, func() error { return b.resolves(m) })
	}
}

// resolves asks the controller's name server, as slots do, for what the LAN's knows.
func (b *bridged) resolves(m *enginetest.Machine) error {
	return m.Do(func() error {
		c, err := net.Dial("udp", "172.19.181.254:53")
		if err != nil {
			return err
		}
		defer c.Close()
		question := []byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
		for _, label := range strings.Split(netspace.InternetName, ".") {
			question = append(append(question, byte(len(label))), label...)
		}
		question = append(question, 0, 0, 1, 0, 1)
		if _, err := c.Write(question); err != nil {
			return err
		}
		buf := make([]byte, 512)
		must(b.t, c.SetReadDeadline(time.Now().Add(time.Second)))
		n, err := c.Read(buf)
		if err == nil && !bytes.Contains(buf[:n], netspace.Internet.AsSlice()) {
			err = fmt.Errorf("the answer is %x", buf[:n])
		}
		return err
	})
}

// hostile is what a host of the LAN may try.
func (b *bridged) hostile() {
	b.t.Helper()
	ctl, p1, p2 := b.Controller, b.Slot(1), b.Slot(2)
	host := b.lan.Host("192.168.1.66", hostileMAC)
	host.IP("addr add 172.19.181.66/24 dev eth0")
	wire := host.Tap("eth0")
	// Where what gets through would be seen: behind the bridge's own rules.
	at := map[string]*netspace.Wire{"controller": b.space(ctl).Tap(clusterctrl.Bridge), "p1": b.space(p1).Tap(clusterctrl.NodeLink), "p2": b.space(p2).Tap(clusterctrl.NodeLink)}
	through := func(marker string) (who []string) {
		for name, w := range at {
			if slices.ContainsFunc(w.Heard(), func(f []byte) bool { return bytes.Contains(f, []byte(marker)) }) {
				who = append(who, name)
			}
		}
		return who
	}

	type attempt struct {
		what, marker string
	}
	var attempts []attempt
	try := func(what, to string, kind uint16, packet func(marker string) []byte, tags ...netspace.Tag) {
		marker := fmt.Sprintf("attempt-%03d.", len(attempts))
		attempts = append(attempts, attempt{what, marker})
		wire.Send(netspace.Frame(to, hostileMAC, kind, packet(marker), tags...))
	}
	udp := func(from, to string, port uint16) func(string) []byte {
		return func(marker string) []byte { return netspace.UDP(from, to, port, []byte(marker)) }
	}
	zero := netspace.Tag{Type: netspace.TypeQinQ}
	for _, m := range []*enginetest.Machine{ctl, p1} {
		inner, lease := m.Addr.String(), b.leased(m).String()
		for _, port := range []uint16{53, 80, 443, 2049, 2377, 4789, 7443, 7946, 10809} {
			for _, from := range []string{"172.19.181.66", "172.19.181.254", p2.Addr.String(), "192.168.1.66", "0.0.0.0"} {
				try(fmt.Sprintf("from %s to %s:%d", from, inner, port), mac(m), netspace.TypeIPv4, udp(from, inner, port))
			}
		}
		for what, tags := range map[string][]netspace.Tag{
			"VLAN 10":                       {{Type: netspace.TypeVLAN, ID: 10}},
			"a priority tag":                {{Type: netspace.TypeVLAN}},
			"a provider's priority tag":     {zero},
			"two priority tags":             {zero, {Type: netspace.TypeVLAN}},
			"VLAN 10 of a provider":         {{Type: netspace.TypeQinQ, ID: 10}},
			"VLAN 10 behind a priority tag": {{Type: netspace.TypeVLAN}, {Type: netspace.TypeVLAN, ID: 10}},
		} {
			try(what+" to "+inner, mac(m), netspace.TypeIPv4, udp("172.19.181.66", inner, 4789), tags...)
			try(what+" to the roots of "+inner, mac(m), netspace.TypeIPv4, udp("172.19.180.66", "172.19.180.254", 10809), tags...)
		}
		try("the roots of "+inner, mac(m), netspace.TypeIPv4, udp("172.19.180.66", "172.19.180.254", 10809))
		try("everybody, in the name of "+inner, netspace.Everybody, netspace.TypeIPv4, udp(inner, "255.255.255.255", 9999))
		local := linkLocal(b.t, b.space(m), m.Link())
		for _, port := range []uint16{2377, 4789, 7946} {
			try(fmt.Sprintf("the swarm at %s:%d", lease, port), mac(m), netspace.TypeIPv4, udp("192.168.1.66", lease, port))
			try(fmt.Sprintf("the swarm at [%s]:%d", local, port), mac(m), netspace.TypeIPv6, udp("fe80::66", local, port))
		}
	}
	// What shows that the others were sent rightly.
	for _, m := range []*enginetest.Machine{ctl, p1} {
		for _, fair := range []struct {
			kind uint16
			udp  func(string) []byte
		}{
			{netspace.TypeIPv4, udp("192.168.1.66", b.leased(m).String(), 9999)},
			{netspace.TypeIPv6, udp("fe80::66", linkLocal(b.t, b.space(m), m.Link()), 9999)},
		} {
			marker := fmt.Sprintf("fair to %s by %x.", m.Name, fair.kind)
			netspace.Eventually(b.t, marker, func() error {
				wire.Send(netspace.Frame(mac(m), hostileMAC, fair.kind, fair.udp(marker)))
				time.Sleep(50 * time.Millisecond)
				if who := through(marker); !slices.Contains(who, m.Name) {
					return fmt.Errorf("it is seen by %v", who)
				}
				return nil
			})
		}
	}
	for _, a := range attempts {
		if who := through(a.marker); who != nil {
			b.t.Errorf("%s: it arrives at %v", a.what, who)
		}
	}

	b.poison(wire, through)
	b.connect(host)
	b.container(wire)
	b.settledAsBefore("a hostile host has done its worst")
	if seen := netspace.SendersIn(without(wire.Heard(), hostileMAC), clusterctrl.Network); seen != nil {
		b.t.Errorf("the hostile host sees %d frames of the cluster's, the first: %s", len(seen), seen[0])
	}
}

// settledAsBefore: the nodes are all there.
func (b *bridged) settledAsBefore(when string) {
	b.t.Helper()
	b.t.Log(when)
	b.Stands(b.Settled(nil))
}

// without leaves out a sender's frames.
func without(frames [][]byte, sender string) [][]byte {
	from, err := net.ParseMAC(sender)
	if err != nil {
		panic(err)
	}
	return slices.DeleteFunc(frames, func(f []byte) bool { return len(f) < 12 || bytes.Equal(f[6:12], from) })
}

// linkLocal is the IPv6 address that every link has.
func linkLocal(t *testing.T, s *netspace.Space, link string) string {
	t.Helper()
	var addr string
	netspace.Eventually(t, "an IPv6 address", func() error {
		f := strings.Fields(s.IP("-6 -o addr show dev " + link + " scope link -tentative"))
		i := slices.Index(f, "inet6")
		if i < 0 {
			return fmt.Errorf("%v", f)
		}
		p, err := netip.ParsePrefix(f[i+1])
		addr = p.Addr().String()
		return err
	})
	return addr
}

// poison tries to be the controller, and a slot, by ARP, and to take a slot's frames by
// its MAC address.
func (b *bridged) poison(wire *netspace.Wire, through func(string) []string) {
	b.t.Helper()
	ctl, p1 := b.Controller, b.Slot(1)
	for _, victim := range []struct{ at, as *enginetest.Machine }{{p1, ctl}, {ctl, p1}} {
		as, to, target := victim.as.Addr.String(), victim.at.Addr.String(), mac(victim.at)
		for _, dst := range []string{netspace.Everybody, target} {
			wire.Sends(netspace.Frame(dst, hostileMAC, netspace.TypeARP, netspace.ARP(2, hostileMAC, as, target, to)))
			wire.Sends(netspace.Frame(dst, hostileMAC, netspace.TypeARP, netspace.ARP(1, hostileMAC, as, "00:00:00:00:00:00", to)))
			wire.Sends(netspace.Frame(dst, hostileMAC, netspace.TypeARP, netspace.ARP(1, hostileMAC, as, hostileMAC, as)))
			wire.Sends(netspace.Frame(dst, hostileMAC, netspace.TypeARP, netspace.ARP(2, hostileMAC, as, target, to), netspace.Tag{Type: netspace.TypeQinQ}))
		}
		// Who is not sure any more asks, which may take a moment.
		netspace.Eventually(b.t, victim.at.Name+" knows "+victim.as.Name, func() error {
			out := b.space(victim.at).IP("neigh show " + as)
			if strings.Contains(out, hostileMAC) {
				b.t.Fatalf("%s takes %s for %s", victim.at.Name, as, out)
			}
			if !strings.Contains(out, mac(victim.as)) {
				return errors.New(out)
			}
			return nil
		})
	}
	// In a slot's name, to where nobody is: that is flooded, if the bridge takes it, and
	// it has learnt then that the slot is behind eth0.
	wire.Sends(netspace.Frame("02:00:00:00:00:99", mac(p1), netspace.TypeIPv4, netspace.UDP("192.168.1.66", "192.168.1.77", 9, []byte("whose?"))))
	wire.Sends(netspace.Frame("02:00:00:00:00:99", hostileMAC, netspace.TypeIPv4, netspace.UDP("192.168.1.66", "192.168.1.77", 9, []byte("nobody's"))))
	netspace.Eventually(b.t, "what is nobody's is flooded", func() error {
		if who := through("nobody's"); !slices.Contains(who, "p1") {
			return fmt.Errorf("it is seen by %v", who)
		}
		return nil
	})
	if who := through("whose?"); who != nil {
		b.t.Errorf("a host of the LAN passes for a slot, and has its frames: %v heard it", who)
	}
}

// containers: what containers of a machine send to another's inner address is from the
// machine's own.
func (b *bridged) containers() {
	b.t.Helper()
	for _, pair := range [][2]*enginetest.Machine{{b.Controller, b.Slot(1)}, {b.Slot(1), b.Controller}} {
		from, to := pair[0], pair[1]
		out, err := from.Docker(b.t.Context(), "run", "--detach", "idle:1")
		must(b.t, err)
		pid := idlingSoon(b.t, strings.TrimSpace(out))
		there := b.listen(b.space(to), to.Addr.String()+":9003")
		seen := b.space(to).Tap(to.Link())
		inside := netspace.Of(b.t, pid)
		netspace.Eventually(b.t, "a container of "+from.Name+" is heard by "+to.Name, func() error {
			return b.reaches(inside, there, there.LocalAddr().String())
		})
		for _, f := range seen.Heard() {
			if bytes.Contains(f, []byte("word ")) && len(f) > 34 && netip.AddrFrom4([4]byte(f[26:30])) != from.Addr {
				b.t.Errorf("a container of %s is %v to %s", from.Name, f[26:30], to.Name)
			}
		}
	}
}

// connect tries connections, with an address of the cluster's network and by way of the
// LAN's addresses.
func (b *bridged) connect(host *netspace.Space) {
	b.t.Helper()
	ctl, p1 := b.Controller, b.Slot(1)
	for _, way := range []string{"own", "routed"} {
		for _, m := range []*enginetest.Machine{ctl, p1} {
			if way == "own" {
				host.IP("neigh replace " + m.Addr.String() + " lladdr " + mac(m) + " dev eth0")
			} else {
				host.IP("route replace " + m.Addr.String() + "/32 via " + b.leased(m).String() + " src 192.168.1.66")
			}
		}
		for _, to := range []string{"172.19.181.254:7443", "172.19.181.254:2377", "172.19.181.254:7946", "172.19.181.1:7946",
			b.leased(ctl).String() + ":7443", b.leased(ctl).String() + ":2377", b.leased(ctl).String() + ":7946", b.leased(p1).String() + ":7946"} {
			err := host.Do(func() error {
				c, err := net.DialTimeout("tcp", to, 300*time.Millisecond)
				if err == nil {
					c.Close()
					return fmt.Errorf("connected to %s", to)
				}
				return nil
			})
			if err != nil {
				b.t.Errorf("%s: %v", way, err)
			}
		}
	}
	// One of them is there, for who is inside.
	must(b.t, p1.Do(func() error {
		c, err := net.DialTimeout("tcp", "172.19.181.254:7946", 30*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}))
}

// container tries a port of a container on the controller that is not published, by
// taking the controller for a router.
func (b *bridged) container(wire *netspace.Wire) {
	b.t.Helper()
	ctl := b.Controller
	id, err := ctl.Docker(b.t.Context(), "run", "--detach", "idle:1")
	must(b.t, err)
	id = strings.TrimSpace(id)
	pid := idlingSoon(b.t, id)
	addr, err := ctl.Docker(b.t.Context(), "inspect", "--format", "{{.NetworkSettings.IPAddress}}", id)
	must(b.t, err)
	addr = strings.TrimSpace(addr)
	there := netspace.Of(b.t, pid).Tap("eth0")
	seen := func() bool {
		return slices.ContainsFunc(there.Heard(), func(f []byte) bool { return bytes.Contains(f, []byte("unpublished")) })
	}
	wire.Sends(netspace.Frame(mac(ctl), hostileMAC, netspace.TypeIPv4, netspace.UDP("192.168.1.66", addr, 9999, []byte("unpublished"))))
	if seen() {
		b.t.Error("a host of the LAN reaches a port of a container that is not published")
	}
	// Without the rules it would have arrived.
	b.Run(ctl, "nft", "flush", "chain", "ip", "hatchery", "forward")
	b.Run(ctl, "iptables", "-w", "-P", "FORWARD", "ACCEPT")
	netspace.Eventually(b.t, "it arrives without the rules", func() error {
		wire.Sends(netspace.Frame(mac(ctl), hostileMAC, netspace.TypeIPv4, netspace.UDP("192.168.1.66", addr, 9999, []byte("unpublished"))))
		if !seen() {
			return errors.New("it does not")
		}
		return nil
	})
	b.Run(ctl, "nft", "-f", filepath.Join(b.Root(ctl), "etc/hatchery/firewall.nft"))
}

// leaseChanges gives everybody another address on the LAN.
func (b *bridged) leaseChanges() {
	b.t.Helper()
	for i, m := range b.Machines() {
		b.lan.Reserve(mac(m), fmt.Sprintf("192.168.1.%d", 200+i))
	}
	for i, m := range b.Machines() {
		netspace.Eventually(b.t, "another lease of "+m.Name, func() error {
			out := b.space(m).IP("-4 -o addr show dev " + m.Link())
			if !strings.Contains(out, fmt.Sprintf("192.168.1.%d/24", 200+i)) || strings.Count(out, "192.168.1.") < 1 {
				return errors.New(out)
			}
			return nil
		})
	}
	b.settledAsBefore("with other leases")
	b.swarmOnInnerAddresses()
}

// cablePulled: without the LAN, the cluster is as it was, and a slot that is switched on
// then joins it.
func (b *bridged) cablePulled(tasks func() error) {
	b.t.Helper()
	p2 := b.Slot(2)
	b.lan.Pull(clustertest.LANMAC)
	netspace.Eventually(b.t, "the cable is out", func() error {
		if out := b.space(b.Controller).IP("link show dev eth0"); !strings.Contains(out, "NO-CARRIER") {
			return errors.New(out)
		}
		return nil
	})
	// A datagram may be lost or late; the cable stays out.
	netspace.Eventually(b.t, "with eth0's cable out, a task hears the other", tasks)
	b.PowerOff(p2)
	b.PowerOn(p2)
	b.WaitSettled()
	b.lan.Push(clustertest.LANMAC)
	outside := b.listen(b.lan.Router, netspace.Internet.String()+":9002")
	for _, m := range b.Machines() {
		netspace.Eventually(b.t, m.Name+"'s way out, the cable being in again", func() error {
			return b.reaches(b.space(m), outside, outside.LocalAddr().String())
		})
	}
}

// announcesInner says whether a frame of multicast DNS gives somebody an inner address. As
// leases come and go, Avahi asks whether somebody else has the inner one, with itself in the
// authority section (a probe, RFC 6762, section 8.1), and takes it back (a time to live of 0):
// neither gives anybody an address.
func announcesInner(frame []byte) bool {
	ports := bytes.Index(frame, []byte{0x14, 0xe9, 0x14, 0xe9}) // from port 5353 to port 5353
	if ports < 0 || !bytes.Contains(frame, []byte{172, 19, 181}) {
		return false
	}
	var m dnsmessage.Message
	if err := m.Unpack(frame[ports+8:]); err != nil {
		return true // nobody knows what it says
	}
	if !m.Response {
		return false
	}
	for _, r := range slices.Concat(m.Answers, m.Authorities, m.Additionals) {
		a, is := r.Body.(*dnsmessage.AResource)
		inner := is && clusterctrl.Network.Contains(netip.AddrFrom4(a.A)) || strings.HasSuffix(r.Header.Name.String(), ".181.19.172.in-addr.arpa.")
		if inner && r.Header.TTL > 0 {
			return true
		}
	}
	return false
}

// TestAnnouncesInner: with a time to live it would be an announcement.
func TestAnnouncesInner(t *testing.T) {
	// Avahi on p1, as its lease came.
	frame, err := hex.DecodeString("01005e0000fb002282ffff010800450000679d794000ff113ae9c0a8017fe00000fb14e914e90053a3870000840000000002" +
		"000000000131033138310231390331373207696e2d61646472046172706100000c800100000000000a027031056c6f63616c" +
		"00c03100018001000000000004ac13b501")
	must(t, err)
	if announcesInner(frame) {
		t.Error("a name that is taken back is one that is given")
	}
	// Avahi on the controller, as its lease changed.
	probe, err := hex.DecodeString("01005e0000fb0200000000010800450000af947c4000ff114355c0a801c8e00000fb14e914e9009ba4180000000000030000" +
		"0004000003323534033138310231390331373207696e2d6164647204617270610000ff00010a636f6e74726f6c6c6572056c" +
		"6f63616c0000ff00010332303001310331363803313932c01b00ff0001c02d00010001000000780004c0a801c8c043000c00" +
		"01000000780002c02dc02d00010001000000780004ac13b5fec00c000c0001000000780002c02d")
	must(t, err)
	if announcesInner(probe) {
		t.Error("a probe is an announcement")
	}
	ttl := bytes.Index(frame, []byte{0x80, 0x01, 0, 0, 0, 0})
	frame[ttl+5] = 120
	if !announcesInner(frame) {
		t.Error("a name that is given is none")
	}
}

// namesOnTheLAN: a laptop finds everybody by name, with Avahi at both ends, and under
// the LAN's addresses alone.
func (b *bridged) namesOnTheLAN() {
	b.t.Helper()
	for _, m := range b.Machines() {
		words := netspace.Avahi(b.t, m.Hostname)
		_, err := m.Go("avahi", m.Command(context.Background(), words[0], words[1:]...))
		must(b.t, err)
	}
	host := b.lan.Host("192.168.1.21", "02:00:00:00:00:21")
	daemon := host.Start(func(ctx context.Context) *exec.Cmd {
		words := netspace.Avahi(b.t, "laptop")
		return host.Command(ctx, words[0], words[1:]...)
	})
	for _, m := range b.Machines() {
		lease := b.leased(m)
		netspace.Eventually(b.t, "the name of "+m.Name, func() error {
			words := netspace.InMountsOf(daemon.Pid(), "avahi-resolve", "-4", "-n", m.Hostname+".local")
			out, err := host.Command(b.t.Context(), words[0], words[1:]...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "\t"+lease.String()+"\n") {
				return fmt.Errorf("it is %s, not %s (%v)", out, lease, err)
			}
			return nil
		})
	}
}

//go:build linux

package rootnet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/netspace"
	"hatchery/internal/testtool"
	"hatchery/netboot/rootnet"
)

func TestMain(m *testing.M) {
	netspace.Main(m, netspace.Helpers{"ensure": ensure, "keep": keep, "slot-of": slotOf, "serve": serve, "ask": ask})
}

func options(args []string) rootnet.Options {
	if len(args) > 0 && args[0] == "real" {
		return rootnet.Options{}
	}
	opt := rootnet.Options{}
	if len(args) > 0 && args[0] == "slots" {
		opt.Slots = []int{2, 3}
	}
	return rootnet.Wires(opt)
}

// ensure says what Ensure did, found and complained of.
func ensure(ctx context.Context, args []string) error {
	status, err := rootnet.Ensure(ctx, options(args))
	print(status, err)
	return nil
}

func print(status rootnet.Status, err error) {
	fmt.Println(status)
	for _, what := range status.Repaired {
		fmt.Println("+", what)
	}
	for _, p := range status.Ports {
		fmt.Println("=", p.Slot, p.Name, p.Carrier)
	}
	if err != nil {
		fmt.Println("!", err)
	}
}

// keep is the service's part.
func keep(ctx context.Context, args []string) error {
	rootnet.Keep(ctx, options(args), print)
	return nil
}

func slotOf(ctx context.Context, args []string) error {
	for _, arg := range args {
		slot, known, err := rootnet.SlotOf(ctx, netip.MustParseAddr(arg))
		if err != nil {
			return err
		}
		fmt.Print(slot, " ", known, "; ")
	}
	return nil
}

// serve prints every datagram's sender, and answers with it.
func serve(_ context.Context, args []string) error {
	conn, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 64)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		fmt.Println(from.(*net.UDPAddr).IP)
		_, _ = conn.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from) // without a way back there is no answer
	}
}

// ask asks a server, from an address, and prints the answer.
func ask(_ context.Context, args []string) error {
	from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(args[0]), 0))
	conn, err := (&net.Dialer{LocalAddr: from}).Dial("udp4", args[1])
	if err != nil {
		fmt.Println("no way:", err)
		return nil
	}
	defer conn.Close()
	buf := make([]byte, 64)
	for range 3 {
		_, _ = conn.Write([]byte("?")) // what is refused comes back with the next
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := conn.Read(buf); err == nil {
			fmt.Println(string(buf[:n]))
			return nil
		}
	}
	fmt.Println("no answer")
	return nil
}

// A site is a controller with slots.
type site struct {
	t     *testing.T
	ctl   *netspace.Space
	nodes map[int]*netspace.Space
}

func newSite(t *testing.T) *site {
	netspace.Need(t)
	return &site{t: t, ctl: netspace.New(t), nodes: map[int]*netspace.Space{}}
}

// plug connects a slot: its link, and what stands for the VLAN on it.
func (s *site) plug(slot int) *netspace.Space {
	s.t.Helper()
	node := netspace.New(s.t)
	s.nodes[slot] = node
	link := fmt.Sprintf("ethupi%d", slot)
	netspace.Cable(s.ctl, link, clusterctrl.ControllerMAC(slot).String(), node, "usb0", clusterctrl.NodeMAC(slot).String())
	netspace.Cable(s.ctl, fmt.Sprintf("wire%d", slot), "02:00:00:00:01:00", node, "root", clusterctrl.NodeMAC(slot).String())
	for _, line := range []string{"link set usb0 up", "link set root up", fmt.Sprintf("addr add 172.19.180.%d/24 dev root", slot)} {
		node.IP(line)
	}
	return node
}

func (s *site) say(helper string, args ...string) string {
	s.t.Helper()
	return s.ctl.Output(s.ctl.Self(s.t.Context(), helper, args...))
}

// expect compares what Ensure says.
func (s *site) expect(summary string, want ...string) {
	s.t.Helper()
	if got := s.say("ensure"); got != strings.Join(want, "\n") {
		s.t.Errorf("%s:\n%s\nwant:\n%s", summary, got, strings.Join(want, "\n"))
	}
}

// answers compares what a node hears. Of a machine that does much else, an answer may
// come too late: who is to hear one asks again.
func (s *site) answers(summary string, slot int, from, to, want string) {
	s.t.Helper()
	node := s.nodes[slot]
	var got string
	for range 5 {
		got = node.Output(node.Self(s.t.Context(), "ask", from, to))
		if got != "no answer" || got == want {
			break
		}
	}
	if !strings.HasPrefix(got, want) {
		s.t.Errorf("%s: %s, want %s", summary, got, want)
	}
}

const controller = "172.19.180.254:10809"

func TestEnsure(t *testing.T) {
	s := newSite(t)
	s.plug(1)
	// The settings' defaults are the machine's, and the carrier comes in a moment.
	var said []string
	for line := range strings.Lines(s.say("ensure")) {
		if !strings.HasPrefix(line, "+ set net/") && !strings.HasPrefix(line, "=") {
			said = append(said, strings.TrimSuffix(line, "\n"))
		}
	}
	if want := []string{"brint 172.19.180.254/24, 1 slot",
		"+ made brint", "+ gave brint the MTU 1496 in place of 1500", "+ switched brint on", "+ gave brint the address 172.19.180.254/24",
		"+ switched ethupi1 on", "+ made ethupi1.10", "+ gave ethupi1.10 the MTU 1496 in place of 1500", "+ made ethupi1.10 a port of brint",
		"+ set isolated=true of ethupi1.10", "+ set learning=false of ethupi1.10", "+ set flood=false of ethupi1.10",
		"+ bound 00:22:82:ff:ff:01 to ethupi1.10", "+ bound 172.19.180.1 to 00:22:82:ff:ff:01", "+ switched ethupi1.10 on"}; !slices.Equal(said, want) {
		t.Errorf("from nothing: %q\nwant %q", said, want)
	}
	const settings = "0 0 0 0 0 1 1 1"
	if got := s.ctl.Run("sh", "-c", "cd /proc/sys/net/ipv4/conf/brint && echo $(cat forwarding proxy_arp accept_redirects send_redirects accept_source_route "+
		"rp_filter arp_ignore /proc/sys/net/ipv6/conf/brint/disable_ipv6)"); got != settings {
		t.Errorf("settings: %s, want %s", got, settings)
	}
	netspace.Eventually(t, "the carrier", func() error {
		if got := s.say("ensure"); !strings.HasSuffix(got, "true") {
			return errors.New(got)
		}
		return nil
	})
	s.expect("again", "brint 172.19.180.254/24, 1 slot", "= 1 ethupi1.10 true")
	one := []string{"brint 172.19.180.254/24, 1 slot", "= 1 ethupi1.10 true"}
	for _, test := range []struct {
		summary string
		broken  []string // lines for ip
		sysctl  string
		value   string
		want    []string
	}{
		{"brint is down", []string{"link set brint down"}, "", "", []string{"+ switched brint on", "+ bound 172.19.180.1 to 00:22:82:ff:ff:01"}},
		{"brint has another address", []string{"link set brint address 02:00:00:00:00:01"}, "", "", []string{"+ gave brint the MAC address 02:22:82:ff:fe:fe in place of 02:00:00:00:00:01", "+ bound 172.19.180.1 to 00:22:82:ff:ff:01"}},
		{"the address is gone", []string{"addr del 172.19.180.254/24 dev brint"}, "", "", []string{"+ gave brint the address 172.19.180.254/24", "+ bound 172.19.180.1 to 00:22:82:ff:ff:01"}},
		{"the port is no port", []string{"link set ethupi1.10 nomaster"}, "", "", []string{"+ made ethupi1.10 a port of brint",
			"+ set isolated=true of ethupi1.10", "+ set learning=false of ethupi1.10", "+ set flood=false of ethupi1.10", "+ bound 00:22:82:ff:ff:01 to ethupi1.10", "+ switched ethupi1.10 on"}},
		{"the port is down", []string{"link set ethupi1.10 down"}, "", "", []string{"+ switched ethupi1.10 on"}},
		{"the port is not isolated", []string{"link set ethupi1.10 type bridge_slave isolated off"}, "", "", []string{"+ set isolated=true of ethupi1.10"}},
		{"the port learns", []string{"link set ethupi1.10 type bridge_slave learning on flood on"}, "", "", []string{"+ set learning=false of ethupi1.10", "+ set flood=false of ethupi1.10"}},
		{"the neighbour is forgotten", []string{"neigh del 172.19.180.1 dev brint"}, "", "", []string{"+ bound 172.19.180.1 to 00:22:82:ff:ff:01"}},
		{"the neighbour is another one", []string{"neigh replace 172.19.180.1 lladdr 00:22:82:ff:ff:02 dev brint nud permanent"}, "", "", []string{"+ bound 172.19.180.1 to 00:22:82:ff:ff:01"}},
		{"somebody has everything forwarded", nil, "all/forwarding", "1", []string{"+ set net/ipv4/conf/brint/forwarding to 0"}},
		{"the MTU is another one", []string{"link set brint mtu 1400", "link set ethupi1.10 mtu 1400"}, "", "", []string{"+ gave brint the MTU 1496 in place of 1400", "+ gave ethupi1.10 the MTU 1496 in place of 1400"}},
	} {
		for _, line := range test.broken {
			s.ctl.IP(line)
		}
		if test.sysctl != "" {
			s.ctl.Run("sh", "-c", "echo "+test.value+" >/proc/sys/net/ipv4/conf/"+test.sysctl)
		}
		s.expect(test.summary, append(append([]string{one[0]}, test.want...), one[1])...)
		s.expect(test.summary+", again", one...)
	}
	s.ctl.IP("link del brint")
	if got := s.say("ensure"); !strings.Contains(got, "+ made brint\n") || !strings.HasSuffix(got, one[1]) {
		t.Errorf("brint was deleted:\n%s", got)
	}
	s.ctl.IP("link del ethupi1") // pulled out: with a real VLAN its port goes too
	s.ctl.IP("link del ethupi1.10")
	s.expect("pulled out", "brint 172.19.180.254/24, 0 slots")
}

// TestTraffic: slots reach the controller as who they are, and nobody else.
func TestTraffic(t *testing.T) {
	s := newSite(t)
	n1, n2 := s.plug(1), s.plug(2)
	s.say("ensure")
	// br0 with another network, as on a controller that forwards.
	lan := netspace.New(t)
	netspace.Cable(s.ctl, "br0", "02:00:00:00:00:01", lan, "eth0", "02:00:00:00:00:02")
	s.ctl.IP("addr add 172.19.181.254/24 dev br0")
	s.ctl.IP("link set br0 up")
	lan.IP("addr add 172.19.181.9/24 dev eth0")
	lan.IP("link set eth0 up")
	lan.IP("route add default via 172.19.181.254")
	s.ctl.Run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	s.say("ensure")
	for _, at := range []*netspace.Space{s.ctl, n1, n2, lan} {
		at.Start(func(ctx context.Context) *exec.Cmd { return at.Self(ctx, "serve", ":10809") })
	}
	n1.IP("route add default via 172.19.180.254")
	n2.IP("route add default via 172.19.180.254")
	netspace.Eventually(t, "the servers answer", func() error {
		for slot, node := range s.nodes {
			addr := rootnet.SlotAddr(slot).String()
			for _, server := range []string{addr + ":10809", controller} {
				if got := node.Output(node.Self(t.Context(), "ask", addr, server)); got != addr {
					return fmt.Errorf("slot %d from %s: %s", slot, server, got)
				}
			}
		}
		return nil
	})
	netspace.Eventually(t, "br0 works", func() error {
		if got := lan.Output(lan.Self(t.Context(), "ask", "172.19.181.9", "172.19.181.254:10809")); got != "172.19.181.9" {
			return errors.New(got)
		}
		return nil
	})

	s.answers("to another slot", 1, "172.19.180.1", "172.19.180.2:10809", "no answer")
	// Told that it is behind the controller, and by its MAC address.
	n1.IP("route add 172.19.180.2/32 via 172.19.180.254")
	s.answers("to another slot over the controller", 1, "172.19.180.1", "172.19.180.2:10809", "no answer")
	n1.IP("route del 172.19.180.2/32 via 172.19.180.254")
	n1.IP("neigh replace 172.19.180.2 lladdr 00:22:82:ff:ff:02 dev root nud permanent")
	s.answers("to another slot's MAC address", 1, "172.19.180.1", "172.19.180.2:10809", "no answer")
	s.answers("to br0's network", 1, "172.19.180.1", "172.19.181.9:10809", "no answer")

	// A slot with another one's address, and MAC address, gets nothing of it.
	n1.IP("addr add 172.19.180.2/24 dev root")
	s.answers("with another's address", 1, "172.19.180.2", controller, "no answer")
	s.answers("that one goes on", 2, "172.19.180.2", controller, "172.19.180.2")
	n1.IP("link set root address 00:22:82:ff:ff:02")
	s.answers("with another's MAC address", 1, "172.19.180.2", controller, "no answer")
	s.answers("that one goes on", 2, "172.19.180.2", controller, "172.19.180.2")
	// Nor does one with an address of no network here.
	n2.IP("addr add 172.19.181.77/24 dev root")
	s.answers("with an address of br0's network", 2, "172.19.181.77", controller, "no answer")

	if got, want := s.say("slot-of", "172.19.180.1", "172.19.180.2", "::ffff:172.19.180.2", "172.19.180.3", "172.19.180.254", "172.19.181.1", "fe80::1"),
		"1 true; 2 true; 2 true; 0 false; 0 false; 0 false; 0 false; "; got != want {
		t.Errorf("slot-of: %s, want %s", got, want)
	}
	s.ctl.IP("link del ethupi2.10")
	if got := s.say("slot-of", "172.19.180.2"); got != "0 false; " {
		t.Errorf("slot-of without a port: %s", got)
	}
	s.ctl.IP("link del brint")
	if got := s.say("slot-of", "172.19.180.1"); got != "0 false; " {
		t.Errorf("slot-of without brint: %s", got)
	}
}

// rules are what the packet filter adds: what brint's settings cannot, since it
// is about other links.
const rules = `
table ip roots
delete table ip roots
table ip roots {
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "brint" drop
		oifname "brint" drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname != { "brint", "lo" } ip daddr 172.19.180.0/24 drop
		iifname "brint" ip saddr != 172.19.180.0/24 drop
	}
}
`

// TestRules: with them, other networks do not reach the network of roots, and
// nothing else changes.
func TestRules(t *testing.T) {
	s := newSite(t)
	n1 := s.plug(1)
	lan := netspace.New(t)
	netspace.Cable(s.ctl, "br0", "02:00:00:00:00:01", lan, "eth0", "02:00:00:00:00:02")
	for at, lines := range map[*netspace.Space][]string{
		s.ctl: {"addr add 172.19.181.254/24 dev br0", "link set br0 up"},
		lan:   {"addr add 172.19.181.9/24 dev eth0", "link set eth0 up", "route add default via 172.19.181.254"},
	} {
		for _, line := range lines {
			at.IP(line)
		}
	}
	s.ctl.Run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	s.say("ensure")
	for _, addr := range []string{controller, "172.19.181.254:10809"} { // each answers from its own
		s.ctl.Start(func(ctx context.Context) *exec.Cmd { return s.ctl.Self(ctx, "serve", addr) })
	}
	n1.IP("route add default via 172.19.180.254")
	heard := n1.Start(func(ctx context.Context) *exec.Cmd { return n1.Self(ctx, "serve", ":10809") })
	received := func() int { return strings.Count(heard.Printed(), "172.19.181.9\n") }
	ask := func(to string) string { return lan.Output(lan.Self(t.Context(), "ask", "172.19.181.9", to)) }
	netspace.Eventually(t, "the way that is to be closed", func() error {
		before := received()
		if got := ask(controller); got != "172.19.181.9" {
			return errors.New(got)
		}
		if ask("172.19.180.1:10809"); received() == before {
			return errors.New("nothing reaches the slot")
		}
		return nil
	})
	testtool.Need(t, "nft")
	load := s.ctl.Command(t.Context(), "nft", "-f", "-")
	load.Stdin = strings.NewReader(rules)
	s.ctl.Output(load)
	if got := ask(controller); got != "no answer" {
		t.Errorf("from elsewhere to the controller's address on brint: %s", got)
	}
	before := received()
	if got := ask("172.19.180.1:10809"); got != "no answer" || received() != before {
		t.Errorf("from elsewhere to a slot: %s, received %d times, then %d", got, before, received())
	}
	netspace.Eventually(t, "an answer from br0's own", func() error {
		if got := ask("172.19.181.254:10809"); got != "172.19.181.9" {
			return errors.New(got)
		}
		return nil
	})
	s.answers("the slot", 1, "172.19.180.1", controller, "172.19.180.1")
}

// TestOthers: what is not ours is left as it is.
func TestOthers(t *testing.T) {
	s := newSite(t)
	s.plug(1)
	s.ctl.IP("link add name br9 type bridge")
	s.ctl.IP("link set wire1 name ethupi1.10")
	s.ctl.IP("link set ethupi1.10 master br9")
	s.ctl.IP("link add name ethupi2 address 02:00:00:00:00:09 type veth peer name x2")
	s.ctl.IP("link add name ethupi3 address 00:22:82:ff:fe:04 type veth peer name x3")
	s.ctl.IP("link add name ethupi5 address 00:22:82:ff:fe:05 type veth peer name x5")
	s.ctl.IP("link add name ethupi5.10 type bridge")
	s.ctl.IP("link add name ethupi05 address 00:22:82:ff:fe:06 type veth peer name x6")
	s.ctl.IP("link add name ethupi253 address 00:22:82:ff:fe:07 type veth peer name x7")
	got := s.say("ensure")
	line, _, _ := strings.Cut(got, "\n")
	want := "brint 172.19.180.254/24, 0 slots, " +
		"slot 1 gets no root: ethupi1.10 is a port of another bridge: remove it there, " +
		"ethupi2 has the MAC address 02:00:00:00:00:09, not slot 2's 00:22:82:ff:fe:02: it gets no root, " +
		"ethupi3 has the MAC address 00:22:82:ff:fe:04, not slot 3's 00:22:82:ff:fe:03: it gets no root, " +
		"slot 5 gets no root: ethupi5.10 is not VLAN 10 of ethupi5: rename or remove it, the name is netboot's"
	if sorted(line) != sorted(want) {
		t.Errorf("got  %s\nwant %s", line, want)
	}
	if got := s.ctl.IP("-o link show master br9"); !strings.Contains(got, "ethupi1.10") {
		t.Errorf("it was taken from its bridge: %s", got)
	}
	s.ctl.IP("link set x2 master brint")
	if got := s.say("ensure"); !strings.Contains(got, "x2 is a port of brint and no slot's") {
		t.Errorf("got %s", got)
	}
	s.ctl.IP("link del brint")
	s.ctl.IP("link add name brint type veth peer name x9")
	if got := s.say("ensure"); got != "no brint\n! brint is a link of kind veth, not a bridge: rename or remove it, the name is netboot's" {
		t.Errorf("got %s", got)
	}
}

// sorted has a line's parts in one order: links come in that of their index.
func sorted(line string) string {
	parts := strings.Split(line, ", ")
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

// TestKeep: it is repaired as it breaks.
func TestKeep(t *testing.T) {
	s := newSite(t)
	n1 := s.plug(1)
	s.ctl.Start(func(ctx context.Context) *exec.Cmd { return s.ctl.Self(ctx, "keep") })
	s.ctl.Start(func(ctx context.Context) *exec.Cmd { return s.ctl.Self(ctx, "serve", ":10809") })
	works := func(what string, node *netspace.Space, addr string) {
		t.Helper()
		netspace.Eventually(t, what, func() error {
			if got := node.Output(node.Self(t.Context(), "ask", addr, controller)); got != addr {
				return errors.New(got)
			}
			return nil
		})
	}
	works("the first slot", n1, "172.19.180.1")
	works("a second slot", s.plug(2), "172.19.180.2")
	s.ctl.IP("link set ethupi1.10 nomaster")
	works("a port that was none", n1, "172.19.180.1")
	s.ctl.IP("link del brint")
	works("brint was deleted", n1, "172.19.180.1")
	works("brint was deleted", s.nodes[2], "172.19.180.2")
}

// TestSlots: nobody can answer for a slot whose link was never there.
func TestSlots(t *testing.T) {
	s := newSite(t)
	n3 := s.plug(3)
	s.say("ensure", "slots")
	s.ctl.Start(func(ctx context.Context) *exec.Cmd { return s.ctl.Self(ctx, "serve", ":10809") })
	n3.IP("addr add 172.19.180.2/24 dev root")
	netspace.Eventually(t, "the slot itself", func() error {
		if got := n3.Output(n3.Self(t.Context(), "ask", "172.19.180.3", controller)); got != "172.19.180.3" {
			return errors.New(got)
		}
		return nil
	})
	s.answers("with the address of one that is off", 3, "172.19.180.2", controller, "no answer")
	if got, want := s.say("slot-of", "172.19.180.2", "172.19.180.3"), "0 false; 3 true; "; got != want {
		t.Errorf("slot-of: %s, want %s", got, want)
	}
	s.ctl.IP("neigh del 172.19.180.2 dev brint")
	if got := s.say("ensure", "slots"); !strings.Contains(got, "+ bound 172.19.180.2 to 00:22:82:ff:ff:02") {
		t.Errorf("its entry was removed:\n%s", got)
	}
	// An entry that binds one slot's address to another's port is nobody's.
	s.ctl.IP("neigh replace 172.19.180.2 lladdr 00:22:82:ff:ff:03 dev brint nud permanent")
	if got := s.say("slot-of", "172.19.180.2"); got != "0 false; " {
		t.Errorf("slot-of by another's MAC address: %s", got)
	}
}

// TestVLAN is with the kernel's own VLANs, or the error that says that there
// are none.
func TestVLAN(t *testing.T) {
	s := newSite(t)
	node := netspace.New(t)
	netspace.Cable(s.ctl, "ethupi1", clusterctrl.ControllerMAC(1).String(), node, "usb0", clusterctrl.NodeMAC(1).String())
	node.IP("link set usb0 up")
	got := s.say("ensure", "real")
	out, err := node.Command(t.Context(), "ip", "link", "add", "link", "usb0", "name", "usb0.10", "mtu", "1496", "type", "vlan", "id", "10").CombinedOutput()
	if err != nil {
		t.Logf("the kernel makes no VLANs: %s", out)
		line, _, _ := strings.Cut(got, "\n")
		want := "brint 172.19.180.254/24, 0 slots, slot 1 gets no root: cannot make ethupi1.10: " + rootnet.ErrNoVLAN.Error() + " (operation not supported)"
		if line != want {
			t.Errorf("got  %s\nwant %s", line, want)
		}
		return
	}
	node.IP("addr add 172.19.180.1/24 dev usb0.10")
	node.IP("link set usb0.10 up")
	s.ctl.Start(func(ctx context.Context) *exec.Cmd { return s.ctl.Self(ctx, "serve", ":10809") })
	netspace.Eventually(t, "an answer over the VLAN", func() error {
		if got := node.Output(node.Self(t.Context(), "ask", "172.19.180.1", controller)); got != "172.19.180.1" {
			return errors.New(got)
		}
		return nil
	})
	if got := s.say("ensure", "real"); got != "brint 172.19.180.254/24, 1 slot\n= 1 ethupi1.10 true" {
		t.Errorf("again: %s", got)
	}
	s.ctl.IP("link del ethupi1") // its VLAN goes with it
	if got := s.say("ensure", "real"); got != "brint 172.19.180.254/24, 0 slots" {
		t.Errorf("pulled out: %s", got)
	}
}

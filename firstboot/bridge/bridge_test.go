//go:build linux

package bridge_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/firstboot/bridge"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/netspace"
	"hatchery/internal/nodefile"
	"hatchery/internal/testtool"
	"hatchery/overlays"
)

func TestMain(m *testing.M) {
	netspace.Main(m, netspace.Helpers{"ensure": ensure, "keep": keep, "serve": serve, "ask": ask, "resolve": resolve})
}

// flagsOf reads a helper's arguments: the node that it is for, and options.
func flagsOf(args []string) (*nodefile.Node, bridge.Options, error) {
	node := &nodefile.Node{
		Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "hammond",
		Address:        netip.PrefixFrom(clusterctrl.ControllerAddr(), 24),
		ControllerAddr: clusterctrl.ControllerAddr(),
	}
	opt := bridge.Options{Networkd: "/nowhere"}
	flags := flag.NewFlagSet("bridge", flag.ContinueOnError)
	root := flags.String("root", "", "the controller's rendered files")
	flags.StringVar(&node.Network, "network", overlays.CNAT, "")
	flags.BoolVar(&node.Docker, "docker", false, "")
	flags.StringVar(&opt.RunDir, "run", "", "")
	flags.StringVar(&opt.Networkd, "networkd", opt.Networkd, "")
	early := flags.Bool("early", false, "")
	flags.DurationVar(&opt.Settle, "settle", 0, "")
	flags.StringVar(&opt.Sysctl, "sysctl", "", "")
	units := flags.String("units", "", "")
	if err := flags.Parse(args); err != nil {
		return nil, opt, err
	}
	opt.Early = func() bool { return *early }
	opt.Firewall = filepath.Join(*root, "etc/hatchery/firewall.nft")
	opt.DockerUser = filepath.Join(*root, "usr/lib/hatchery/docker-user")
	switch *units {
	case "start":
		opt.Units = recorder{}
	case "refuse":
		opt.Units = recorder{errors.New("unit is masked")}
	}
	return node, opt, nil
}

// recorder tells what it is asked to start.
type recorder struct{ err error }

func (u recorder) StartUnit(_ context.Context, name string) error {
	fmt.Println("start", name)
	return u.err
}

// ensure says what Ensure did, found and complained of.
func ensure(ctx context.Context, args []string) error {
	node, opt, err := flagsOf(args)
	if err != nil {
		return err
	}
	status, err := bridge.Ensure(ctx, node, opt)
	fmt.Println(status)
	for _, what := range status.Repaired {
		fmt.Println("+", strings.ReplaceAll(what, filepath.Dir(opt.Firewall), "ETC"))
	}
	for _, what := range status.Awaited {
		fmt.Println("~", what)
	}
	var ports []string
	for _, p := range status.Ports {
		ports = append(ports, fmt.Sprintf("%d:%s:%t", p.Slot, p.Name, p.Carrier))
	}
	fmt.Println("=", status.MAC, ports, status.Forwarding, status.Firewall, status.DockerUser, status.Names)
	if err != nil {
		fmt.Println("!", err)
	}
	return nil
}

// keep is the agent's part: it looks whenever something has changed.
func keep(ctx context.Context, args []string) error {
	node, opt, err := flagsOf(args)
	if err != nil {
		return err
	}
	for range bridge.Watch(ctx, node, opt) {
		status, err := bridge.Ensure(ctx, node, opt)
		fmt.Println(status, err)
		for _, what := range status.Repaired {
			fmt.Println("+", what)
		}
	}
	return nil
}

// serve answers every datagram with its sender's address.
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
		// To a sender without a route back there is no answer, and the next
		// one may have one.
		_, _ = conn.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
	}
}

// ask says who we are to a server, or that it does not answer.
func ask(_ context.Context, args []string) error {
	for range 3 {
		conn, err := net.Dial("udp4", args[0])
		if err != nil {
			fmt.Print("no way: ")
			break
		}
		buf := make([]byte, 64)
		_, err = conn.Write([]byte("?"))
		if err == nil {
			err = conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
		}
		n := 0
		if err == nil {
			n, err = conn.Read(buf)
		}
		conn.Close()
		if err == nil {
			fmt.Printf("%s", buf[:n])
			return nil
		}
	}
	fmt.Print("no answer")
	return nil
}

func resolve(ctx context.Context, args []string) error {
	addrs, err := bridge.Ask(ctx, netip.MustParseAddrPort(args[0]), args[1], 3*time.Second)
	fmt.Print(addrs, err)
	return nil
}

// controllerFiles renders what a controller's image gets, and lays out what
// matters here.
func controllerFiles(t *testing.T, network string) string {
	t.Helper()
	data := overlays.Data{
		Cluster: "homelab", Name: "controller", Hostname: "hammond", Network: network, Release: "bookworm",
		Hosts:    []overlays.Host{{Name: "controller", Hostname: "hammond"}, {Name: "p1", Slot: 1, Hostname: "oneil"}},
		User:     overlays.User{Name: "pi"},
		Timezone: "Europe/London", Locale: "en_GB.UTF-8", MachineID: strings.Repeat("01", 16), Epoch: time.Unix(1700000000, 0),
		Docker:   overlays.Docker{Packages: []string{"docker.io"}, Version: "20.10.24"},
		DNS:      []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Identity: overlays.Identity{Generation: 1, Key: []byte("k\n"), Certificate: []byte("c\n"), CA: []byte("ca\n"), HostKey: []byte("h\n"), HostKeyPublic: "ssh-ed25519 AAAA"},
	}
	entries, err := overlays.Render(data, overlays.Trees(true)...)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	wanted := map[string]bool{"etc/hatchery/firewall.nft": true, "etc/hatchery/dnsmasq.conf": true, "etc/hatchery/hosts": true, "usr/lib/hatchery/docker-user": true}
	for _, e := range entries {
		if !wanted[strings.TrimPrefix(e.Path, "/")] {
			continue
		}
		delete(wanted, strings.TrimPrefix(e.Path, "/"))
		path := filepath.Join(root, e.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		content := strings.ReplaceAll(string(e.Content), "=/etc/", "="+root+"/etc/")
		if err := os.WriteFile(path, []byte(content), e.Mode.Perm()); err != nil {
			t.Fatal(err)
		}
	}
	if len(wanted) > 0 {
		t.Fatalf("not among the controller's files: %v", wanted)
	}
	// dnsmasq reads them as a user of its own.
	for dir := root; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func needRules(t *testing.T) {
	t.Helper()
	netspace.Need(t)
	for _, tool := range []string{"nft", "iptables", "dnsmasq"} {
		testtool.Need(t, tool)
	}
	netspace.Probe(t, "nftables' NAT in the kernel", "printf 'table ip t {\\nchain c {\\ntype nat hook postrouting priority srcnat\\nmasquerade\\n}\\n}\\n' | nft -f -")
	netspace.Probe(t, "nftables' bridge family in the kernel", "printf 'table bridge t {\\nchain c {\\ntype filter hook postrouting priority 0\\narp saddr ip 10.0.0.0/8 drop\\n}\\n}\\n' | nft -f -")
	netspace.Probe(t, "iptables' conntrack match in the kernel", "iptables -w -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
}

// A site is a controller between two slots and an uplink, with nothing set up
// of its own.
type site struct {
	t               *testing.T
	ctl, p1, p2, up *netspace.Space
	args            []string
}

func newSite(t *testing.T, network string) *site {
	t.Helper()
	needRules(t)
	s := &site{t: t, ctl: netspace.New(t), p1: netspace.New(t), p2: netspace.New(t), up: netspace.New(t)}
	s.args = []string{"-root", controllerFiles(t, network), "-run", filepath.Join(t.TempDir(), "run"), "-network", network}
	s.plug(1)
	s.plug(2)
	netspace.Cable(s.ctl, "eth0", "02:00:00:00:00:01", s.up, "eth0", "02:00:00:00:00:02")
	s.up.IP("addr add 192.0.2.1/24 dev eth0")
	s.up.IP("link set eth0 up")
	s.ctl.IP("link set eth0 up")
	return s
}

func (s *site) plug(slot int) {
	s.t.Helper()
	far := map[int]*netspace.Space{1: s.p1, 2: s.p2}[slot]
	netspace.Cable(s.ctl, fmt.Sprintf("ethpi%d", slot), clusterctrl.ControllerMAC(slot).String(), far, "usb0", clusterctrl.NodeMAC(slot).String())
	far.IP(fmt.Sprintf("addr add %s/24 dev usb0", clusterctrl.SlotAddr(slot)))
	far.IP("link set usb0 up")
	far.IP("route add default via 172.19.181.254")
}

func (s *site) expect(summary, want string, args ...string) {
	s.t.Helper()
	got := s.ctl.Output(s.ctl.Self(s.t.Context(), "ensure", append(append([]string{}, s.args...), args...)...))
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", summary, diff)
	}
}

func (s *site) serve(space *netspace.Space, addr string) {
	s.t.Helper()
	space.Start(func(ctx context.Context) *exec.Cmd { return space.Self(ctx, "serve", addr) })
	netspace.Eventually(s.t, "a server on "+addr, func() error {
		if got := space.Output(space.Self(s.t.Context(), "ask", addr)); got == "no answer" {
			return errors.New(got)
		}
		return nil
	})
}

func (s *site) asks(summary string, space *netspace.Space, addr, want string) {
	s.t.Helper()
	var got string
	// Of a machine that does much else, an answer may come too late.
	for range 5 {
		if got = space.Output(space.Self(s.t.Context(), "ask", addr)); got != "no answer" || got == want {
			break
		}
	}
	if got != want {
		s.t.Errorf("%s: %s, not %s", summary, got, want)
	}
}

func (s *site) names() *netspace.Process {
	s.t.Helper()
	conf := filepath.Join(s.args[1], "etc/hatchery/dnsmasq.conf")
	server := s.ctl.Start(func(ctx context.Context) *exec.Cmd {
		return s.ctl.Command(ctx, "dnsmasq", "--keep-in-foreground", "--conf-file="+conf, "--user=root", "--log-facility=-")
	})
	netspace.Eventually(s.t, "the name server", func() error {
		got := s.ctl.Output(s.ctl.Self(s.t.Context(), "resolve", "172.19.181.254:53", "hammond"))
		if got != "[172.19.181.254] <nil>" {
			return errors.New(got)
		}
		return nil
	})
	return server
}

const (
	whole = "br0 172.19.181.254/24, 2 slots, no uplink"
	state = "\n= 00:22:82:ff:fe:fe [1:ethpi1:true 2:ethpi2:true] true true true true"
)

func TestEnsure(t *testing.T) {
	s := newSite(t, overlays.CNAT)
	got := s.ctl.Output(s.ctl.Self(t.Context(), "ensure", s.args...))
	if want := whole + ", the name server on 172.19.181.254:53 does not work: "; !strings.HasPrefix(got, want) {
		t.Errorf("no name server: %s, not %s…", got, want)
	}
	_, got, _ = strings.Cut(got, "\n")
	if diff := cmp.Diff(`+ made br0
+ switched br0 on
+ gave br0 the address 172.19.181.254/24
+ set net/ipv4/ip_forward to 1
+ made the packet filter's table ip hatchery of ETC/firewall.nft
+ made slot 1's link ethpi1 a port of br0
+ switched slot 1's link ethpi1 on
+ made slot 2's link ethpi2 a port of br0
+ switched slot 2's link ethpi2 on
= 00:22:82:ff:fe:fe [1:ethpi1:true 2:ethpi2:true] true true true false`, got); diff != "" {
		t.Errorf("with nothing there (-want +got):\n%s", diff)
	}
	s.names()
	s.expect("nothing to do", whole+state)

	s.ctl.IP("addr add 192.0.2.254/24 dev eth0")
	s.ctl.IP("route add default via 192.0.2.1")
	const whole = "br0 172.19.181.254/24, 2 slots, uplink eth0"
	s.expect("with an uplink", whole+state)
	s.serve(s.up, "192.0.2.1:9999")
	s.serve(s.p2, "172.19.181.2:9999")
	works := func(summary string) {
		t.Helper()
		s.asks(summary+", slot to slot", s.p1, "172.19.181.2:9999", "172.19.181.1")
		s.asks(summary+", slot to uplink", s.p1, "192.0.2.1:9999", "192.0.2.254")
	}
	works("made")

	s.ctl.Run("nft", "delete", "table", "ip", "hatchery")
	s.asks("without the table", s.p2, "192.0.2.1:9999", "no answer")
	s.expect("the table is gone", whole+"\n+ made the packet filter's table ip hatchery of ETC/firewall.nft"+state)
	works("table made")
	for _, damage := range []string{
		"flush chain ip hatchery postrouting",
		"insert rule ip hatchery postrouting return",
		"flush ruleset",
	} {
		s.ctl.Run("nft", strings.Fields(damage)...)
		s.expect(damage, whole+"\n+ made the packet filter's table ip hatchery of ETC/firewall.nft"+state)
		works(damage)
	}
	firewall := filepath.Join(s.args[1], "etc/hatchery/firewall.nft")
	rules, err := os.ReadFile(firewall)
	if err != nil {
		t.Fatal(err)
	}
	mine := append(rules, "add rule ip hatchery postrouting ip saddr 10.9.0.0/16 masquerade\n"...)
	if err := os.WriteFile(firewall, mine, 0o755); err != nil {
		t.Fatal(err)
	}
	s.expect("another file", whole+"\n+ made the packet filter's table ip hatchery of ETC/firewall.nft"+state)
	s.expect("the same again", whole+state)
	if err := os.WriteFile(firewall, []byte("table ip hatchery {\n\tchain x { nonsense }\n}\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got = s.ctl.Output(s.ctl.Self(t.Context(), "ensure", s.args...))
	if want := whole + ", the packet filter's table is not made: nft -f "; !strings.HasPrefix(got, want) || !strings.Contains(got, "syntax error") ||
		!strings.HasSuffix(got, "] true false true true") {
		t.Errorf("a file that is wrong: %s, not %s…", got, want)
	}
	works("a file that is wrong")
	if err := os.Remove(firewall); err != nil {
		t.Fatal(err)
	}
	got = s.ctl.Output(s.ctl.Self(t.Context(), "ensure", s.args...))
	if want := "the packet filter's table is not made: open " + firewall + ": no such file or directory"; !strings.Contains(got, want) {
		t.Errorf("no file: %s", got)
	}
	if err := os.WriteFile(firewall, rules, 0o755); err != nil {
		t.Fatal(err)
	}
	s.expect("the file is back", whole+"\n+ made the packet filter's table ip hatchery of ETC/firewall.nft"+state)

	s.ctl.Run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
	s.asks("without forwarding", s.p1, "192.0.2.1:9999", "no answer")
	s.expect("forwarding is off", whole+"\n+ set net/ipv4/ip_forward to 1"+state)
	works("forwarding set")
	s.ctl.Run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/conf/br0/forwarding")
	s.asks("without br0's forwarding", s.p1, "192.0.2.1:9999", "no answer")
	s.expect("br0's forwarding is off", whole+"\n+ set net/ipv4/conf/br0/forwarding to 1"+state)

	s.ctl.IP("link set ethpi1 nomaster")
	s.expect("a port less", whole+"\n+ made slot 1's link ethpi1 a port of br0"+state)
	s.ctl.IP("link set ethpi1 down")
	s.ctl.IP("link set ethpi1 name usb3")
	s.expect("a port without its name", whole+"\n+ switched slot 1's link usb3 on"+strings.Replace(state, "ethpi1", "usb3", 1))
	s.ctl.IP("link del usb3")
	s.expect("pulled out", "br0 172.19.181.254/24, 1 slot, uplink eth0\n= 00:22:82:ff:fe:fe [2:ethpi2:true] true true true true")
	s.plug(1)
	s.expect("plugged in", whole+"\n+ made slot 1's link ethpi1 a port of br0\n+ switched slot 1's link ethpi1 on"+state)
	works("plugged in")
	s.ctl.IP("link add name br1 type bridge")
	s.ctl.IP("link set ethpi1 master br1")
	s.expect("taken by another bridge", "br0 172.19.181.254/24, 1 slot, uplink eth0, slot 1's link ethpi1 is a port of another bridge: remove it there\n"+
		"= 00:22:82:ff:fe:fe [2:ethpi2:true] true true true true")
	s.ctl.IP("link del br1")

	s.ctl.IP("addr del 172.19.181.254/24 dev br0")
	s.ctl.IP("link set br0 address 00:22:82:ff:fe:01")
	s.expect("another MAC address, none of IP, and a port on its own again", whole+`
+ gave br0 the MAC address 00:22:82:ff:fe:fe in place of 00:22:82:ff:fe:01
+ gave br0 the address 172.19.181.254/24
+ made slot 1's link ethpi1 a port of br0`+state)
	s.ctl.IP("link del br0")
	s.ctl.IP("link add name br0 address 02:00:00:00:00:09 type bridge")
	s.expect("a bare bridge", whole+`
+ gave br0 the MAC address 00:22:82:ff:fe:fe in place of 02:00:00:00:00:09
+ switched br0 on
+ gave br0 the address 172.19.181.254/24
+ made slot 2's link ethpi2 a port of br0
+ made slot 1's link ethpi1 a port of br0`+state)
	works("a bare bridge")
}

// TestDockersWorst: forwarding found off, so Docker's policy is DROP, and
// frames from slot to slot pass the packet filter.
func TestDockersWorst(t *testing.T) {
	s := newSite(t, overlays.CNAT)
	netspace.Probe(t, "br_netfilter in the kernel", "ip link add name b0 type bridge && test -e /proc/sys/net/bridge/bridge-nf-call-iptables")
	s.args = append(s.args, "-docker")
	s.ctl.Output(s.ctl.Self(t.Context(), "ensure", s.args...))
	s.names()
	s.ctl.IP("addr add 192.0.2.254/24 dev eth0")
	s.ctl.IP("route add default via 192.0.2.1")
	s.serve(s.up, "192.0.2.1:9999")
	s.serve(s.p2, "172.19.181.2:9999")
	const whole = "br0 172.19.181.254/24, 2 slots, uplink eth0"
	iptables := func(line string) string {
		return s.ctl.Run("iptables", append([]string{"-w"}, strings.Fields(line)...)...)
	}
	both := func(summary, near, far string) {
		t.Helper()
		s.asks(summary+", slot to slot", s.p1, "172.19.181.2:9999", near)
		s.asks(summary+", slot to uplink", s.p1, "192.0.2.1:9999", far)
	}
	s.ctl.Run("sh", "-c", "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables")
	both("before Docker", "172.19.181.1", "192.0.2.254")

	// As Docker 20.10 does when it starts, on a chain that was not there.
	iptables("-F DOCKER-USER")
	iptables("-P FORWARD DROP")
	iptables("-A DOCKER-USER -j RETURN")
	iptables("-I FORWARD -j DOCKER-USER")
	both("Docker's policy alone", "no answer", "no answer")
	s.expect("Docker has started", whole+"\n+ let the slots through Docker's packet filter (DOCKER-USER)"+state)
	both("let through", "172.19.181.1", "192.0.2.254")
	s.expect("nothing to do", whole+state)
	const want = `-N DOCKER-USER
-A DOCKER-USER -i br0 -j ACCEPT
-A DOCKER-USER -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -j RETURN`
	if got := iptables("-S DOCKER-USER"); got != want {
		t.Errorf("the rules:\n%s", got)
	}

	iptables("-F FORWARD")
	both("without the jump", "no answer", "no answer")
	s.expect("FORWARD was flushed", whole+"\n+ put DOCKER-USER back into FORWARD, which drops everything else"+state)
	both("with the jump", "172.19.181.1", "192.0.2.254")
	iptables("-D DOCKER-USER -i br0 -j ACCEPT")
	iptables("-I DOCKER-USER -s 172.19.181.9 -j DROP")
	s.expect("a rule less, and one of the operator's", whole+"\n+ let the slots through Docker's packet filter (DOCKER-USER)"+state)
	if got := iptables("-S DOCKER-USER"); !strings.Contains(got, "-s 172.19.181.9/32 -j DROP") || strings.Count(got, "br0") != 2 {
		t.Errorf("the rules:\n%s", got)
	}
	both("with the operator's rule", "172.19.181.1", "192.0.2.254")
	// Without a policy that drops, the jump is nobody's business.
	iptables("-P FORWARD ACCEPT")
	iptables("-F FORWARD")
	s.expect("everything is forwarded", whole+state)
	iptables("-F")
	iptables("-X DOCKER-USER")
	s.expect("the chain is gone", whole+"\n+ let the slots through Docker's packet filter (DOCKER-USER)"+state)

	if err := os.Remove(filepath.Join(s.args[1], "usr/lib/hatchery/docker-user")); err != nil {
		t.Fatal(err)
	}
	got := s.ctl.Output(s.ctl.Self(t.Context(), "ensure", s.args...))
	if want := whole + ", the slots' way through Docker's packet filter is not checked: open "; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "] true true false true") {
		t.Errorf("without the program: %s", got)
	}
}

func TestBridged(t *testing.T) {
	s := newSite(t, overlays.CBRIDGE)
	got := s.ctl.Output(s.ctl.Self(t.Context(), "ensure", s.args...))
	_, got, _ = strings.Cut(got, "\n")
	if diff := cmp.Diff(`+ made br0
+ switched br0 on
+ gave br0 the address 172.19.181.254/24
+ set net/ipv4/ip_forward to 1
+ made the packet filter's table ip and bridge hatchery of ETC/firewall.nft
+ made slot 1's link ethpi1 a port of br0
+ switched slot 1's link ethpi1 on
+ made slot 2's link ethpi2 a port of br0
+ switched slot 2's link ethpi2 on
= 02:00:00:00:00:01 [1:ethpi1:true 2:ethpi2:true] true true true false`, got); diff != "" {
		t.Errorf("with nothing there (-want +got):\n%s", diff)
	}
	s.names()
	state := strings.Replace(state, clusterctrl.BridgeMAC().String(), "02:00:00:00:00:01", 1)
	s.expect("eth0 is networkd's", whole+", eth0 is no port of br0: the slots do not reach the LAN, see networkctl status eth0"+state)
	s.ctl.IP("link set eth0 master br0")
	s.expect("nothing to do", whole+state)
	s.ctl.Run("nft", "delete", "table", "bridge", "hatchery")
	s.expect("the table is gone", whole+"\n+ made the packet filter's table ip and bridge hatchery of ETC/firewall.nft"+state)
	s.ctl.Run("nft", "delete", "table", "ip", "hatchery")
	s.expect("the other table is gone", whole+"\n+ made the packet filter's table ip and bridge hatchery of ETC/firewall.nft"+state)
	if got := s.ctl.IP("-4 -o addr show dev br0"); !strings.Contains(got, " scope link ") {
		t.Errorf("the inner address is one for the LAN: %s", got)
	}
	s.ctl.IP("link set br0 address 02:00:00:00:00:07")
	s.expect("another MAC address", whole+", br0 has not the MAC address of eth0: the LAN may give it another address by DHCP"+
		strings.Replace(state, "00:01", "00:07", 1))
	s.ctl.IP("link del eth0")
	s.expect("no eth0", whole+", there is no eth0: the slots do not reach the LAN"+strings.Replace(state, "00:01", "00:07", 1))
}

// TestKeep: what goes is back as soon as it is told.
func TestKeep(t *testing.T) {
	s := newSite(t, overlays.CNAT)
	keeper := s.ctl.Start(func(ctx context.Context) *exec.Cmd { return s.ctl.Self(ctx, "keep", s.args...) })
	for _, step := range []struct {
		summary string
		do      func()
		again   string
	}{
		{"at the beginning", func() {}, "+ made br0\n"},
		{"the packet filter is flushed", func() { s.ctl.Run("nft", "flush", "ruleset") }, "+ made the packet filter's table ip hatchery"},
		{"the address is gone", func() { s.ctl.IP("addr flush dev br0") }, "+ gave br0 the address 172.19.181.254/24\n"},
		{"a port less", func() { s.ctl.IP("link set ethpi2 nomaster") }, "+ made slot 2's link ethpi2 a port of br0\n"},
		{"switched off and on", func() { s.ctl.IP("link del ethpi1"); s.plug(1) }, "+ switched slot 1's link ethpi1 on\n"},
		{"br0 is gone", func() { s.ctl.IP("link del br0") }, "+ made br0\n"},
	} {
		// What the last step led to is over when nothing more is printed.
		var before string
		netspace.Eventually(t, "rest", func() error {
			before = keeper.Printed()
			time.Sleep(500 * time.Millisecond)
			if keeper.Printed() != before {
				return errors.New("the keeper is at work")
			}
			return nil
		})
		if step.summary == "at the beginning" {
			before = ""
		}
		step.do()
		netspace.Eventually(t, step.summary, func() error {
			if out := keeper.Printed(); !strings.Contains(out[len(before):], step.again) {
				return fmt.Errorf("it printed %q", out[len(before):])
			}
			return nil
		})
	}
}

// TestNoBridge: what stands in the way of br0 is an error.
func TestNoBridge(t *testing.T) {
	s := newSite(t, overlays.CNAT)
	s.ctl.IP("link add name br0 type veth peer name br1")
	s.expect("the name is taken", `no br0
=  [] false false false false
! br0 is a link of kind veth, not a bridge: rename or remove it, the name is the slots' network's`)
}

// TestNameServer: one that does not answer is started.
func TestNameServer(t *testing.T) {
	s := newSite(t, overlays.CNAT)
	for _, test := range []struct{ units, want string }{
		{"start", "start hatchery-dns.service\n" + whole + ", the name server on 172.19.181.254:53 does not work (yet): "},
		{"refuse", "start hatchery-dns.service\n" + whole + ", the name server on 172.19.181.254:53 does not work ("},
	} {
		got := s.ctl.Output(s.ctl.Self(t.Context(), "ensure", append(s.args, "-units", test.units)...))
		if !strings.HasPrefix(got, test.want) || (test.units == "refuse") != strings.Contains(got, "and cannot be started: unit is masked") {
			t.Errorf("%s: %s", test.units, got)
		}
	}
	early := s.ctl.Output(s.ctl.Self(t.Context(), "ensure", append(s.args, "-units", "start", "-early")...))
	if want := "start hatchery-dns.service\n" + whole + "\n~ the name server on 172.19.181.254:53 does not work (yet): "; !strings.HasPrefix(early, want) {
		t.Errorf("early in the boot: %s", early)
	}
	server := s.names()
	s.expect("it answers", whole+state, "-units", "start")
	if err := os.WriteFile(filepath.Join(s.args[1], "etc/hatchery/hosts"), []byte("172.19.181.7 hammond\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(server.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	netspace.Eventually(t, "the other address", func() error {
		if got := s.ctl.Output(s.ctl.Self(t.Context(), "resolve", "172.19.181.254:53", "hammond")); got != "[172.19.181.7] <nil>" {
			return errors.New(got)
		}
		return nil
	})
	s.expect("it answers wrongly", whole+", the name server says that hammond is [172.19.181.7], not 172.19.181.254: see /etc/hatchery/hosts"+
		strings.Replace(state, "true true true true", "true true true false", 1))
}

// TestNetworkd: where systemd-networkd runs, it gets the time to do its work.
func TestNetworkd(t *testing.T) {
	s := newSite(t, overlays.CNAT)
	networkd := t.TempDir()
	if err := os.Mkdir(filepath.Join(networkd, "links"), 0o755); err != nil {
		t.Fatal(err)
	}
	// It has come, and knows the loopback.
	if err := os.WriteFile(filepath.Join(networkd, "links/1"), []byte("ADMIN_STATE=unmanaged\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.ctl.Start(func(ctx context.Context) *exec.Cmd {
		return s.ctl.Command(ctx, "sh", "-euc", `sleep 1
ip link add name br0 address 00:22:82:ff:fe:fe type bridge
ip link set br0 up
sleep 1
ip addr add 172.19.181.254/24 dev br0`)
	})
	got := s.ctl.Output(s.ctl.Self(t.Context(), "ensure", append(s.args, "-networkd", networkd, "-settle", "1h")...))
	if strings.Contains(got, "made br0") || strings.Contains(got, "gave br0") || !strings.Contains(got, "made slot 2's link") {
		t.Errorf("networkd was not waited for: %s", got)
	}
	s.ctl.IP("link del br0")
	got = s.ctl.Output(s.ctl.Self(t.Context(), "ensure", append(s.args, "-networkd", networkd, "-settle", "200ms")...))
	if !strings.Contains(got, "made br0") || !strings.Contains(got, "gave br0") {
		t.Errorf("networkd is waited for longer than it may take: %s", got)
	}
}

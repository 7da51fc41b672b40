//go:build linux

package link_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/firstboot/link"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/netspace"
	"hatchery/internal/nodefile"
)

func TestMain(m *testing.M) {
	netspace.Main(m, netspace.Helpers{"ensure": ensure, "watch": watch, "listen": listen})
}

func node(network string) *nodefile.Node {
	return &nodefile.Node{
		Cluster: "homelab", Name: "p1", Role: nodefile.Worker, Slot: 1, Hostname: "oneil", Network: network,
		Address:        netip.PrefixFrom(clusterctrl.SlotAddr(1), 24),
		ControllerAddr: clusterctrl.ControllerAddr(),
	}
}

// ensure says what Ensure did, found and complained of.
func ensure(ctx context.Context, args []string) error {
	var opt link.Options
	flags := flag.NewFlagSet("ensure", flag.ContinueOnError)
	network := flags.String("network", "cnat", "")
	flags.StringVar(&opt.Sysfs, "sysfs", "/nowhere", "")
	flags.StringVar(&opt.Networkd, "networkd", "/nowhere", "")
	flags.DurationVar(&opt.Starts, "starts", 0, "")
	flags.DurationVar(&opt.Settle, "settle", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	opt.Patience = 6 * time.Second
	opt.Log = slog.New(slog.DiscardHandler)
	status, err := link.Ensure(ctx, node(*network), opt)
	fmt.Println(status)
	for _, what := range status.Repaired {
		fmt.Println("+", what)
	}
	if err != nil {
		kind := "other"
		for name, sentinel := range map[string]error{"no link": link.ErrNoLink, "no carrier": link.ErrNoCarrier, "silent": link.ErrSilent} {
			if errors.Is(err, sentinel) {
				kind = name
			}
		}
		fmt.Printf("! %s: %v\n", kind, err)
	}
	return nil
}

// watch prints a line for each change.
func watch(ctx context.Context, _ []string) error {
	n := 0
	for range link.Watch(ctx, node("cnat"), link.Options{}) {
		n++
		fmt.Printf("change %d.\n", n)
	}
	return nil
}

// listen takes connections and says from where they came.
func listen(_ context.Context, args []string) error {
	l, err := net.Listen("tcp4", args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Println(conn.RemoteAddr())
		conn.Close()
	}
}

// pair is a controller and a node with a cable between them. The node's end is
// as the kernel makes it: without an address, and down.
type pair struct {
	t         *testing.T
	ctl, node *netspace.Space
}

func newPair(t *testing.T, mac string) *pair {
	t.Helper()
	netspace.Need(t)
	p := &pair{t, netspace.New(t), netspace.New(t)}
	netspace.Cable(p.ctl, "ethpi1", "00:22:82:ff:fe:01", p.node, "usb0", mac)
	p.ctl.IP("addr add 172.19.181.254/24 dev ethpi1")
	p.ctl.IP("link set ethpi1 up")
	return p
}

// expect runs Ensure on the node and compares what it says.
func (p *pair) expect(summary, want string, args ...string) {
	p.t.Helper()
	got := p.node.Output(p.node.Self(p.t.Context(), "ensure", args...))
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("%s (-want +got):\n%s", summary, diff)
	}
}

func (p *pair) listen() *netspace.Process {
	p.t.Helper()
	server := p.ctl.Start(func(ctx context.Context) *exec.Cmd { return p.ctl.Self(ctx, "listen", "172.19.181.254:7443") })
	netspace.Eventually(p.t, "a listening controller", func() error {
		if out := server.Printed(); !strings.Contains(out, "listening") {
			return fmt.Errorf("it printed %q", out)
		}
		return nil
	})
	return server
}

const fine = "usb0, 172.19.181.1/24, controller answers"

func TestEnsure(t *testing.T) {
	p := newPair(t, "00:22:82:ff:ff:01")
	p.expect("a bare link, and the service is not up yet", `usb0, 172.19.181.1/24, controller refuses
+ switched it on
+ gave it the address 172.19.181.1/24
+ made the default route by 172.19.181.254`)
	server := p.listen()
	p.expect("nothing to do", fine)
	if out := server.Printed(); !strings.Contains(out, "172.19.181.1:") {
		t.Errorf("the controller saw %q, not the node's address", out)
	}
	p.node.IP("addr del 172.19.181.1/24 dev usb0")
	p.expect("the address is gone, and the route with it", fine+`
+ gave it the address 172.19.181.1/24
+ made the default route by 172.19.181.254`)
	p.node.IP("route del default")
	p.expect("the route is gone", fine+"\n+ made the default route by 172.19.181.254")
	p.node.IP("link set usb0 down")
	p.expect("somebody switched it off", fine+"\n+ switched it on\n+ made the default route by 172.19.181.254")
	p.node.IP("link set usb0 down")
	p.node.IP("link set usb0 name usb7")
	p.expect("another name", strings.Replace(fine, "usb0", "usb7", 1)+"\n+ switched it on\n+ made the default route by 172.19.181.254")
	if out := p.node.IP("-4 -o addr show"); strings.Count(out, "172.19.181.1/24") != 1 {
		t.Errorf("the addresses:\n%s", out)
	}

	p.ctl.IP("link set ethpi1 down")
	p.expect("the controller is off", `usb7, 172.19.181.1/24, no carrier
! no carrier: the link to the controller has no carrier: usb7 is up, but the controller has not taken the USB device (yet)`)
	p.ctl.IP("link set ethpi1 up")
	p.ctl.IP("addr del 172.19.181.254/24 dev ethpi1")
	p.node.IP("neigh flush all")
	got := p.node.Output(p.node.Self(t.Context(), "ensure"))
	if want := "usb7, 172.19.181.1/24, controller silent\n! silent: the controller does not answer at 172.19.181.254: "; !strings.HasPrefix(got, want) {
		t.Errorf("the controller has no address: %s", got)
	}
	p.ctl.IP("link del ethpi1")
	p.node.IP("link add name br0 address 00:22:82:ff:ff:01 type bridge")
	p.expect("pulled out, and what stood on it is no link", `no link
! no link: there is no link to the controller: no interface has the MAC address 00:22:82:ff:ff:01, and none is on USB: was the USB gadget made?`)
}

// TestOddWays: what somebody else has made stays, and is told where it harms.
func TestOddWays(t *testing.T) {
	p := newPair(t, "00:22:82:ff:ff:01")
	server := p.listen()
	p.node.IP("link add name wlan0 type veth peer name far0")
	p.node.IP("link set wlan0 up")
	p.node.IP("link set far0 up")
	p.node.IP("addr add 192.168.42.7/24 dev wlan0")
	p.node.IP("route add default via 192.168.42.1")
	p.expect("another default route", fine+`, another default route has the place of the controller's
+ switched it on
+ gave it the address 172.19.181.1/24`)
	p.node.IP("route del default")
	p.node.IP("route add default via 192.168.42.1 metric 600")
	p.expect("one that comes second", fine+"\n+ made the default route by 172.19.181.254")
	p.node.IP("route del default via 172.19.181.254")
	p.expect("on a LAN of its own", fine, "-network", "cbridge")

	p.node.IP("addr flush dev usb0")
	p.node.IP("addr add 172.19.181.9/24 dev usb0")
	p.expect("another address comes first", fine+", usb0 has the address 172.19.181.9 too, which comes first: remove it"+`
+ gave it the address 172.19.181.1/24`, "-network", "cbridge")
	if out := server.Printed(); strings.Contains(out, "172.19.181.9:") {
		t.Errorf("the controller saw another address than the node's own: %s", out)
	}
	p.node.IP("addr del 172.19.181.9/24 dev usb0")
	p.node.IP("addr flush dev usb0")
	p.node.IP("addr add 172.19.181.1/24 dev usb0")
	p.node.IP("route add 172.19.181.254/32 dev wlan0")
	got := p.node.Output(p.node.Self(t.Context(), "ensure", "-network", "cbridge"))
	if want := "the way to 172.19.181.254 is by wlan0: it has an address or a route of 172.19.181.0/24"; !strings.Contains(got, want) {
		t.Errorf("the way is elsewhere: %s", got)
	}
}

// sysfs lays out what the kernel shows of interfaces: on which bus each is.
func sysfs(t *testing.T, p *pair, buses map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, bus := range buses {
		net := filepath.Join(root, "class/net", name)
		device := filepath.Join(root, "devices", name+"-device")
		if bus == "gadget" {
			device = filepath.Join(root, "devices", name, "gadget.0")
		}
		for _, dir := range []string{net, device, filepath.Join(root, "bus", strings.TrimSuffix(bus, " radio"))} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		index := strings.TrimSpace(strings.SplitN(p.node.IP("-o link show "+name), ":", 2)[0])
		if bus == "elsewhere" {
			index, bus = "4711", "usb"
		}
		if err := os.WriteFile(filepath.Join(net, "ifindex"), []byte(index+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		bus, radio := strings.CutSuffix(bus, " radio")
		if radio {
			if err := os.Mkdir(filepath.Join(net, "wireless"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for from, to := range map[string]string{filepath.Join(net, "device"): device, filepath.Join(device, "subsystem"): filepath.Join(root, "bus", bus)} {
			if err := os.Symlink(to, from); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// TestUSB: without the slot's MAC address anywhere, the only interface on USB
// is the link.
func TestUSB(t *testing.T) {
	const macless = "no interface has the MAC address 00:22:82:ff:ff:01, and "
	for _, test := range []struct {
		summary string
		buses   map[string]string
		want    string
	}{
		{"an emulator's", map[string]string{"usb0": "usb", "eth9": "platform"}, "taken"},
		{"a gadget's", map[string]string{"usb0": "gadget", "eth9": "platform"}, "taken"},
		{"beside a radio on USB", map[string]string{"usb0": "usb", "eth9": "usb radio"}, "taken"},
		{"beside one of another namespace", map[string]string{"usb0": "usb", "eth9": "elsewhere"}, "taken"},
		{"two of them", map[string]string{"usb0": "usb", "eth9": "usb"},
			"no link\n! no link: there is no link to the controller: " + macless + "of usb0 and eth9 nobody can tell which it is: unplug the others"},
		{"none", map[string]string{"usb0": "platform", "eth9": "sdio"},
			"no link\n! no link: there is no link to the controller: " + macless + "none is on USB: was the USB gadget made?"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			p := newPair(t, "02:00:00:00:00:07")
			p.listen()
			p.node.IP("link set usb0 up")
			p.node.IP("link add name eth9 type veth peer name far0")
			// In the order of the kernel's indexes.
			want := test.want
			if want == "taken" {
				want = fine + `
+ gave it the MAC address 00:22:82:ff:ff:01 in place of 02:00:00:00:00:07
+ gave it the address 172.19.181.1/24
+ made the default route by 172.19.181.254`
			}
			p.expect("first", want, "-sysfs", sysfs(t, p, test.buses))
			if test.want == "taken" {
				p.expect("then by its address", fine)
			}
		})
	}
}

// TestNetworkd: where systemd-networkd has the link, it gets the time to do its
// work.
func TestNetworkd(t *testing.T) {
	for _, test := range []struct {
		summary string
		state   string
		settle  string
		works   bool // networkd gives the address
		want    string
	}{
		{"at work", "ADMIN_STATE=configuring\n", "1h", true, fine + "\n+ made the default route by 172.19.181.254"},
		{"leaves it alone", "ADMIN_STATE=unmanaged\n", "1h", false,
			fine + "\n+ gave it the address 172.19.181.1/24\n+ made the default route by 172.19.181.254"},
		{"failed", "OPER_STATE=degraded\nADMIN_STATE=failed\n", "1h", false,
			fine + "\n+ gave it the address 172.19.181.1/24\n+ made the default route by 172.19.181.254"},
		{"never comes to it", "ADMIN_STATE=pending\n", "300ms", false,
			fine + "\n+ gave it the address 172.19.181.1/24\n+ made the default route by 172.19.181.254"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			p := newPair(t, "00:22:82:ff:ff:01")
			p.listen()
			p.node.IP("link set usb0 up")
			index := strings.SplitN(p.node.IP("-o link show usb0"), ":", 2)[0]
			networkd := t.TempDir()
			if err := os.Mkdir(filepath.Join(networkd, "links"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(networkd, "links", index), []byte("# private\n"+test.state), 0o644); err != nil {
				t.Fatal(err)
			}
			if test.works {
				p.node.Start(func(ctx context.Context) *exec.Cmd {
					return p.node.Command(ctx, "sh", "-c", "sleep 1; ip addr add 172.19.181.1/24 dev usb0")
				})
			}
			p.expect(test.summary, test.want, "-networkd", networkd, "-starts", test.settle, "-settle", test.settle)
		})
	}
}

func TestWatch(t *testing.T) {
	p := newPair(t, "00:22:82:ff:ff:01")
	w := p.node.Start(func(ctx context.Context) *exec.Cmd { return p.node.Self(ctx, "watch") })
	printed := func(text string) {
		t.Helper()
		netspace.Eventually(t, text, func() error {
			if out := w.Printed(); !strings.Contains(out, text) {
				return fmt.Errorf("it printed %q", out)
			}
			return nil
		})
	}
	printed("change 1.")
	for _, step := range []struct {
		space *netspace.Space
		line  string
	}{
		{p.node, "link set usb0 up"},
		{p.node, "addr add 172.19.181.1/24 dev usb0"},
		{p.ctl, "link set ethpi1 down"},
		{p.ctl, "link del ethpi1"},
	} {
		before := strings.Count(w.Printed(), "change ")
		step.space.IP(step.line)
		printed(fmt.Sprintf("change %d.", before+1))
	}
}

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		summary string
		status  link.Status
		want    string
	}{
		{"nothing", link.Status{}, "no link"},
		{"no address yet", link.Status{Link: link.Link{Index: 3, Name: "usb0"}, Carrier: true}, "usb0"},
		{"no carrier", link.Status{Link: link.Link{Index: 3, Name: "usb0"}, Address: netip.MustParsePrefix("172.19.181.1/24")},
			"usb0, 172.19.181.1/24, no carrier"},
	} {
		if got := test.status.String(); got != test.want {
			t.Errorf("%s: %q, not %q", test.summary, got, test.want)
		}
	}
}

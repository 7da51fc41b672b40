package netspace

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hatchery/internal/testtool"
)

// What there is of a LAN's addresses.
var (
	LANNetwork = netip.MustParsePrefix("192.168.1.0/24")
	// LANRouter is the router's: the way out, the DHCP server and the name server.
	LANRouter = netip.MustParseAddr("192.168.1.1")
	// LANNetwork6 is what the router announces for IPv6. It gives no addresses
	// of it: whoever wants one makes it.
	LANNetwork6 = netip.MustParsePrefix("fd00:192:168:1::/64")
	// Internet is behind the router.
	Internet = netip.MustParseAddr("198.51.100.1")
)

// InternetName is [Internet]'s name, as a LAN's name server has it.
const InternetName = "internet.example"

// leaseRenewed is after how many seconds clients renew a lease. It is the
// shortest that is worth waiting for in a test; dnsmasq takes no lease itself
// below two minutes.
const leaseRenewed = 6

// A LAN is somebody's home network: a switch, and a router with a DHCP server, a
// name server (dnsmasq, both) and the Internet behind it. Controllers are plugged
// into it with their eth0, any number, and other hosts of the home.
//
//	lan := netspace.NewLAN(t)
//	lan.Reserve("02:00:00:00:00:01", "192.168.1.150")    // or whatever is free, by DHCP
//	lan.Plug(netns, "eth0", "02:00:00:00:00:01")         // a namespace by its name
//	other := lan.Host("192.168.1.66", "02:00:00:00:00:66") // a host with that address
//	lan.Pull("02:00:00:00:00:01")                        // the cable's other end has no carrier
//
// A link that was plugged in is down and has no address: that is for whoever is
// tested to change. LANs know nothing of each other, and each goes with its test.
type LAN struct {
	Switch, Router *Space

	t        testing.TB
	dir      string
	ports    map[string]string // of the switch, by the MAC address at the other end
	reserved map[string]string // addresses by MAC address
	server   *Process
}

// NewLAN makes a LAN with its router. The test is skipped (on CI: fails) where the
// machine lacks what it takes.
func NewLAN(t testing.TB) *LAN {
	t.Helper()
	Need(t)
	testtool.Need(t, "dnsmasq")
	l := &LAN{Switch: New(t), Router: New(t), t: t, dir: t.TempDir(), ports: map[string]string{}, reserved: map[string]string{}}
	// A switch that floods multicast, as most of a home do: who listens hears all
	// that could be heard.
	l.Switch.IP("link add name switch type bridge forward_delay 0 mcast_snooping 0")
	l.Switch.IP("link set switch addrgenmode none")
	l.Switch.IP("link set switch up")
	l.Plug(l.Router.Name, "eth0", "02:00:00:00:00:fe")
	l.Router.IP("addr add " + netip.PrefixFrom(LANRouter, LANNetwork.Bits()).String() + " dev eth0")
	l.Router.IP("addr add " + netip.PrefixFrom(LANNetwork6.Addr().Next(), LANNetwork6.Bits()).String() + " dev eth0 nodad")
	l.Router.IP("addr add " + Internet.String() + "/32 dev lo")
	l.Router.IP("link set eth0 up")
	l.hosts()
	l.server = l.Router.Start(func(ctx context.Context) *exec.Cmd {
		return l.Router.Command(ctx, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file",
			"--no-hosts", "--no-resolv", "--interface=eth0", "--bind-interfaces", "--address=/"+InternetName+"/"+Internet.String(),
			"--no-ping", "--dhcp-authoritative", "--dhcp-range=192.168.1.100,192.168.1.140,1h", "--dhcp-hostsfile="+l.file("hosts"),
			fmt.Sprintf("--dhcp-option=option:T1,%d", leaseRenewed), fmt.Sprintf("--dhcp-option=option:T2,%d", 2*leaseRenewed),
			"--dhcp-leasefile="+l.file("leases"), "--enable-ra", "--dhcp-range="+LANNetwork6.Addr().String()+",ra-only",
			"--log-facility=-", "--log-dhcp")
	})
	Eventually(t, "the LAN's name server", func() error {
		if out := l.Router.Run("ss", "-Hlun", "sport = :53"); !strings.Contains(out, LANRouter.String()) {
			return fmt.Errorf("it does not listen: %s", out)
		}
		return nil
	})
	return l
}

func (l *LAN) file(name string) string { return filepath.Join(l.dir, name) }

// Plug plugs a link into the switch. The namespace is there and has no such link:
// it is made, with that MAC address, and is down.
func (l *LAN) Plug(netns, link, mac string) {
	l.t.Helper()
	port := fmt.Sprintf("port%d", len(l.ports)+1)
	testtool.Run(l.t, "ip", "link", "add", "name", port, "netns", l.Switch.Name, "type", "veth",
		"peer", "name", link, "address", mac, "netns", netns)
	l.ports[mac] = port
	// A port of a switch is no host.
	l.Switch.IP("link set " + port + " addrgenmode none")
	l.Switch.IP("link set " + port + " master switch up")
}

// Pull pulls the cable of a link, by its MAC address: it has no carrier.
func (l *LAN) Pull(mac string) { l.port(mac, "down") }

// Push plugs a cable in again that was pulled.
func (l *LAN) Push(mac string) { l.port(mac, "up") }

func (l *LAN) port(mac, state string) {
	l.t.Helper()
	port := l.ports[mac]
	if port == "" {
		l.t.Fatalf("nothing with %s is plugged in", mac)
	}
	l.Switch.IP("link set " + port + " " + state)
}

// Tap hears, at the switch, all that comes from a link that is plugged in.
func (l *LAN) Tap(mac string) *Wire {
	l.t.Helper()
	port := l.ports[mac]
	if port == "" {
		l.t.Fatalf("nothing with %s is plugged in", mac)
	}
	return l.Switch.Tap(port)
}

// Host is another host of the LAN's: eth0 has the address and is up, and its way
// out is the router.
func (l *LAN) Host(address, mac string) *Space {
	l.t.Helper()
	h := New(l.t)
	l.Plug(h.Name, "eth0", mac)
	h.IP("addr add " + address + "/24 dev eth0")
	h.IP("link set eth0 up")
	h.IP("route add default via " + LANRouter.String())
	return h
}

// Reserve has the DHCP server give a MAC address this IP address from now on,
// instead of one that it chooses. Who has another one hears of it when it renews
// its lease, some seconds later at most.
func (l *LAN) Reserve(mac, address string) {
	l.t.Helper()
	l.reserved[mac] = address
	l.hosts()
	if err := syscall.Kill(l.server.Pid(), syscall.SIGHUP); err != nil { // it reads its files again
		l.t.Fatal(err)
	}
}

func (l *LAN) hosts() {
	l.t.Helper()
	var b strings.Builder
	for mac, address := range l.reserved {
		fmt.Fprintf(&b, "%s,%s\n", mac, address)
	}
	if err := os.WriteFile(l.file("hosts"), []byte(b.String()), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// Lease is the address that the DHCP server has given to a MAC address, the zero
// one for none.
func (l *LAN) Lease(mac string) netip.Addr {
	l.t.Helper()
	want, err := net.ParseMAC(mac)
	if err != nil {
		l.t.Fatal(err)
	}
	f, err := os.Open(l.file("leases"))
	if os.IsNotExist(err) {
		return netip.Addr{}
	} else if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	// A line each: when it ends, MAC address, IP address, name, client.
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 3 || words[1] != want.String() {
			continue
		}
		if addr, err := netip.ParseAddr(words[2]); err == nil {
			return addr
		}
	}
	return netip.Addr{}
}

// Served is what the DHCP and name server has logged.
func (l *LAN) Served() string { return l.server.Printed() }

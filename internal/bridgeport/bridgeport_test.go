//go:build linux

package bridgeport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hatchery/internal/bridgeport"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/netspace"
)

func TestMain(m *testing.M) {
	netspace.Main(m, netspace.Helpers{"slot-of": slotOf, "ports": ports, "answer": answer, "ask": ask})
}

// slotOf says for each address which slot it is behind.
func slotOf(ctx context.Context, args []string) error {
	for _, arg := range args {
		slot, known, err := bridgeport.SlotOf(ctx, netip.MustParseAddr(arg))
		var shared *bridgeport.SharedError
		if err != nil && !errors.As(err, &shared) {
			return err
		}
		switch {
		case err != nil:
			fmt.Println(err)
		case !known:
			fmt.Println("not known")
		default:
			fmt.Println(slot)
		}
	}
	return nil
}

func ports(ctx context.Context, _ []string) error {
	ports, err := bridgeport.Ports(ctx)
	for _, p := range ports {
		fmt.Println(p.Slot, p.Name, p.Carrier)
	}
	return err
}

// answer answers every datagram.
func answer(_ context.Context, args []string) error {
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
		if _, err := conn.WriteTo(buf[:1], from); err != nil {
			return err
		}
	}
}

// ask asks from one address to another and waits for the answer.
func ask(ctx context.Context, args []string) error {
	from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(args[0]), 0))
	conn, err := (&net.Dialer{LocalAddr: from}).DialContext(ctx, "udp4", args[1])
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("?")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 64))
	return err
}

func TestSlotOfMAC(t *testing.T) {
	for _, test := range []struct {
		summary, mac string
		slot         int
		ok           bool
	}{
		{"the first slot", "00:22:82:ff:fe:01", 1, true},
		{"the last slot", "00:22:82:ff:fe:fc", 252, true},
		{"no slot 0", "00:22:82:ff:fe:00", 0, false},
		{"br0's own", "00:22:82:ff:fe:fe", 0, false},
		{"a node's end", "00:22:82:ff:ff:01", 0, false},
		{"somebody else's", "02:22:82:ff:fe:01", 0, false},
		{"an address of eight bytes", "00:22:82:ff:fe:01:00:01", 0, false},
		{"none", "", 0, false},
	} {
		mac, err := net.ParseMAC(test.mac)
		if err != nil && test.mac != "" {
			t.Fatal(err)
		}
		if slot, ok := bridgeport.SlotOfMAC(mac); slot != test.slot || ok != test.ok {
			t.Errorf("%s: SlotOfMAC(%s) = %d, %v", test.summary, test.mac, slot, ok)
		}
	}
}

// TestSlotOf: the controller with two slots and a LAN on its bridge.
func TestSlotOf(t *testing.T) {
	netspace.Need(t)
	ctl, p1, p2, lan := netspace.New(t), netspace.New(t), netspace.New(t), netspace.New(t)
	say := func(helper string, args ...string) string {
		return strings.ReplaceAll(ctl.Output(ctl.Self(t.Context(), helper, args...)), "\n", "; ")
	}
	expect := func(summary, want string, addrs ...string) {
		t.Helper()
		if got := say("slot-of", addrs...); got != want {
			t.Errorf("%s: %v are behind %s, not %s", summary, addrs, got, want)
		}
	}
	expect("without br0", "not known", "172.19.181.1")
	if got := say("ports"); got != "" {
		t.Errorf("ports without br0: %s", got)
	}

	ctl.IP("link add name br0 address 00:22:82:ff:fe:fe type bridge")
	ctl.IP("addr add 172.19.181.254/24 dev br0")
	ctl.IP("link set br0 up")
	plug := func(link, mac string, far *netspace.Space, farMAC string, addrs ...string) {
		netspace.Cable(ctl, link, mac, far, "usb0", farMAC)
		ctl.IP("link set " + link + " master br0")
		ctl.IP("link set " + link + " up")
		for _, a := range addrs {
			far.IP("addr add " + a + "/24 dev usb0")
		}
		far.IP("link set usb0 up")
	}
	plug("ethpi2", "00:22:82:ff:fe:02", p2, "00:22:82:ff:ff:02", "172.19.181.2")
	plug("odd", "00:22:82:ff:fe:01", p1, "00:22:82:ff:ff:01", "172.19.181.1")
	plug("eth0", "02:00:00:00:00:01", lan, "02:00:00:00:00:02", "172.19.181.77")
	ctl.Start(func(ctx context.Context) *exec.Cmd { return ctl.Self(ctx, "answer", "172.19.181.254:7443") })
	// hear has the controller hear an address from a space.
	hear := func(s *netspace.Space, addr string) {
		t.Helper()
		netspace.Eventually(t, "an answer to "+addr, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			out, err := s.Self(ctx, "ask", addr, "172.19.181.254:7443").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}

	expect("nobody was heard yet", "not known; not known", "172.19.181.1", "172.19.181.3")
	hear(p1, "172.19.181.1")
	hear(p2, "172.19.181.2")
	hear(lan, "172.19.181.77")
	expect("each behind its own", "1; 2; 0", "172.19.181.1", "172.19.181.2", "172.19.181.77")
	expect("as a socket for both families has it", "1", "::ffff:172.19.181.1")
	expect("the controller's own", "not known", clusterctrl.ControllerAddr().String())
	expect("of the other family", "not known", "fe80::1")
	if got, want := say("ports"), "1 odd true; 2 ethpi2 true"; got != want {
		t.Errorf("ports: %s, not %s", got, want)
	}

	// The card of slot 2 takes the address of slot 1. It is known for what it
	// is: behind slot 2.
	p1.IP("link set usb0 down")
	p2.IP("addr add 172.19.181.1/24 dev usb0")
	ctl.IP("neigh flush dev br0")
	hear(p2, "172.19.181.1")
	expect("taken by another slot", "2", "172.19.181.1")

	// And its MAC address too.
	p2.IP("link set usb0 down")
	p2.IP("link set usb0 address 00:22:82:ff:ff:01")
	p2.IP("link set usb0 up")
	ctl.IP("neigh flush dev br0")
	hear(p2, "172.19.181.1")
	expect("with the MAC address", "2", "172.19.181.1")

	// And the one of the controller's end, while the slot's own is there.
	ctl.IP("link set ethpi2 address 00:22:82:ff:fe:01")
	expect("with the port's MAC address", "ethpi2 and odd have the MAC address of slot 1: "+
		"two cards of one slot are plugged in, take one out", "172.19.181.1")
	if got, want := say("ports"), "1 ethpi2 true; 1 odd false"; got != want {
		t.Errorf("ports: %s, not %s", got, want)
	}

	// The address of the controller's own end is behind no port.
	ctl.IP("neigh replace 172.19.181.3 lladdr 02:00:00:00:00:01 dev br0")
	expect("with the controller's end's MAC address", "not known", "172.19.181.3")

	// Pulled out: the bridge forgets the port, and what was behind it.
	ctl.IP("link del ethpi2")
	expect("pulled out", "not known", "172.19.181.1")
}

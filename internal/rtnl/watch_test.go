//go:build linux

package rtnl_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/netspace"
	"hatchery/internal/rtnl"
	"hatchery/internal/testtool"
)

func TestMain(m *testing.M) {
	netspace.Main(m, netspace.Helpers{"watch": watch})
}

// watch prints a line for each change, and each thing that the watch logs.
func watch(ctx context.Context, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	changes := rtnl.Watch(ctx, rtnl.WatchOptions{
		Links:        func(l rtnl.Link) bool { return bytes.Equal(l.MAC, clusterctrl.NodeMAC(1)) || l.Kind == "device" },
		PacketFilter: args[0] == "filter",
		Log:          slog.New(slog.NewTextHandler(os.Stdout, nil)),
	})
	for n := 1; ; n++ {
		if _, ok := <-changes; !ok {
			fmt.Println("closed")
			return nil
		}
		fmt.Printf("change %d.\n", n)
	}
}

// watching starts a watch and waits until it listens.
func watching(t *testing.T, s *netspace.Space, what string) *netspace.Process {
	t.Helper()
	p := s.Start(func(ctx context.Context) *exec.Cmd { return s.Self(ctx, "watch", what) })
	printed(t, p, "change 1.")
	return p
}

func printed(t *testing.T, p *netspace.Process, text string) {
	t.Helper()
	netspace.Eventually(t, text, func() error {
		if out := p.Printed(); !strings.Contains(out, text) {
			return fmt.Errorf("it printed %q", out)
		}
		return nil
	})
}

// told gives how many changes were told once no more come: five times as long
// as a burst may pause.
func told(p *netspace.Process) int {
	for n := -1; ; {
		now := strings.Count(p.Printed(), "change ")
		if now == n {
			return n
		}
		n = now
		time.Sleep(500 * time.Millisecond)
	}
}

func TestWatch(t *testing.T) {
	netspace.Need(t)
	s := netspace.New(t)
	s.IP("link add name usb0 address 00:22:82:ff:ff:01 type veth peer name far0")
	s.IP("link add name eth0 address 02:00:00:00:00:01 type veth peer name far1")
	for _, link := range []string{"usb0", "far0", "eth0", "far1"} {
		s.IP("link set " + link + " up")
	}
	p := watching(t, s, "links")
	for _, test := range []struct {
		summary string
		line    string
		matters bool
	}{
		{"another link's address", "addr add 10.0.0.1/24 dev eth0", false},
		{"another link's route", "route add 10.1.0.0/16 via 10.0.0.2", false},
		{"another link", "link set eth0 mtu 1300", false},
		{"the link's address", "addr add 172.19.181.1/24 dev usb0", true},
		{"the link's route", "route add default via 172.19.181.254", true},
		{"the route goes", "route del default", true},
		{"the carrier goes", "link set far0 down", true},
		{"another gets the address", "link set eth0 address 00:22:82:ff:ff:01", true},
		{"and now matters", "link set eth0 mtu 1500", true},
		{"and loses it", "link set eth0 address 02:00:00:00:00:01", true},
		{"and matters no more", "link set eth0 mtu 1400", false},
		{"becomes a bridge's port", "link add name b0 type bridge", false},
		{"a container's becomes a port", "link set eth0 master b0", false},
		{"and is none any more", "link set eth0 nomaster", false},
		{"becomes a port", "link set usb0 master b0", true},
		{"is none any more", "link set usb0 nomaster", true},
		{"still matters", "link set usb0 mtu 1200", true},
		{"the link goes", "link del usb0", true},
		{"the link comes", "link add name other0 address 00:22:82:ff:ff:01 type veth peer name far0", true},
	} {
		before := told(p)
		s.IP(test.line)
		if test.matters {
			printed(t, p, fmt.Sprintf("change %d.", before+1))
		} else if after := told(p); after != before {
			t.Errorf("%s: %d changes were told of ip %s", test.summary, after-before, test.line)
		}
	}
	if err := syscall.Kill(p.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	printed(t, p, "closed")
}

// TestWatchOverrun: while the watch sleeps, so much happens that the kernel
// drops events, the one that matters among them. It is told all the same.
func TestWatchOverrun(t *testing.T) {
	netspace.Need(t)
	s := netspace.New(t)
	s.IP("link add name noise0 type veth peer name noise1")
	p := watching(t, s, "links")
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var burst strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&burst, "link set noise0 mtu %d\n", 1300+n%2)
	}
	batch := exec.Command(testtool.Need(t, "ip"), "-n", s.Name, "-batch", "-")
	batch.Stdin = strings.NewReader(burst.String() + "link add name usb0 address 00:22:82:ff:ff:01 type veth peer name far0\n")
	if out, err := batch.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := syscall.Kill(p.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	printed(t, p, "came too fast")
	printed(t, p, "change 2.")
	// The link that came unseen is known: its address matters.
	before := told(p)
	s.IP("addr add 172.19.181.1/24 dev usb0")
	printed(t, p, fmt.Sprintf("change %d.", before+1))
}

func TestWatchPacketFilter(t *testing.T) {
	netspace.Need(t)
	testtool.Need(t, "nft")
	testtool.Need(t, "iptables")
	netspace.Probe(t, "nftables in the kernel", "nft add table ip t")
	s := netspace.New(t)
	p := watching(t, s, "filter")
	for _, change := range []string{"nft add table ip hatchery", "iptables -w -P FORWARD DROP"} {
		before := told(p)
		words := strings.Fields(change)
		s.Run(words[0], words[1:]...)
		printed(t, p, fmt.Sprintf("change %d.", before+1))
	}
	// To look is no change.
	before := told(p)
	s.Run("iptables", "-w", "-S")
	s.Run("nft", "list", "ruleset")
	if after := told(p); after != before {
		t.Errorf("%d changes were told of commands that only list", after-before)
	}
}

package netspace_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/internal/netspace"
	"hatchery/internal/testtool"
)

// answers says whether there is a machine at an address: it refuses to talk.
func answers(s *netspace.Space, addr string) error {
	return s.Do(func() error {
		c, err := net.DialTimeout("tcp4", net.JoinHostPort(addr, "9"), time.Second)
		if err == nil {
			c.Close()
			return nil
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		return err
	})
}

// TestLAN: hosts reach each other and what is behind the router, get what was
// reserved for them by DHCP, and do without while their cable is pulled. dhcpcd is the
// judge, and the kernel.
func TestLAN(t *testing.T) {
	netspace.Need(t)
	testtool.Need(t, "dhcpcd")
	const mac = "02:00:00:00:00:07"
	lan := netspace.NewLAN(t)
	host := lan.Host("192.168.1.66", "02:00:00:00:00:66")
	for _, addr := range []string{netspace.LANRouter.String(), netspace.Internet.String()} {
		netspace.Eventually(t, "the host reaches the LAN", func() error { return answers(host, addr) })
	}
	lan.Reserve(mac, "192.168.1.150")
	client := netspace.New(t)
	lan.Plug(client.Name, "eth0", mac)
	if got := lan.Lease(mac); got.IsValid() {
		t.Errorf("a lease for whom nothing was asked: %s", got)
	}
	ask := func() {
		t.Helper()
		// In a place of its own, and without a word to this machine's resolv.conf.
		client.Start(func(ctx context.Context) *exec.Cmd {
			return client.Command(ctx, "unshare", "-m", "sh", "-euc",
				"mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib; mkdir /var/lib/dhcpcd; exec dhcpcd -4 -B -f /dev/null -c /bin/true -A eth0")
		})
	}
	ask()
	netspace.Eventually(t, "a lease", func() error {
		if got := lan.Lease(mac); got != netip.MustParseAddr("192.168.1.150") {
			return fmt.Errorf("it has %v", got)
		}
		if out := client.IP("-4 -o addr show dev eth0"); !strings.Contains(out, "192.168.1.150/24") {
			return errors.New(out)
		}
		return answers(host, "192.168.1.150")
	})
	lan.Pull(mac)
	if err := answers(host, "192.168.1.150"); err == nil {
		t.Error("it answers without a cable")
	}
	lan.Push(mac)
	netspace.Eventually(t, "it answers again", func() error { return answers(host, "192.168.1.150") })
	if !strings.Contains(lan.Served(), "DHCPACK(eth0) 192.168.1.150 "+mac) {
		t.Errorf("the server has not told of the lease:\n%s", lan.Served())
	}
}

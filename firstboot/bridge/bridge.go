// Package bridge is the slots' network on the controller: br0 with its address,
// the slots' links as its ports, forwarding, the packet filter's tables beside
// Docker's, and the slots' name server.
//
// On a real controller systemd-networkd, nft and systemd do all of that by the
// files of the overlays. This package checks what is there, and makes what is
// missing: ports by the MAC address of their links, rules by running the files
// that hold them. Where there is no networkd it makes br0 as well. In CBRIDGE,
// eth0 is networkd's alone: it is checked, and not touched.
package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"hatchery/firstboot/networkd"
	"hatchery/internal/bridgeport"
	"hatchery/internal/nodefile"
)

// NameServer is the unit that answers the slots' questions for names.
const NameServer = "hatchery-dns.service"

// Units starts what systemd keeps.
type Units interface {
	StartUnit(ctx context.Context, name string) error
}

// Options are where and how to look. The zero value is a real controller's.
type Options struct {
	// Firewall is the file of the packet filter's own table:
	// /etc/hatchery/firewall.nft.
	Firewall string
	// DockerUser is the program that lets the slots through Docker's packet
	// filter: /usr/lib/hatchery/docker-user.
	DockerUser string
	// RunDir is where it is kept what the rules looked like when they were
	// made; it is empty after a boot. /run/hatchery.
	RunDir string
	// Sysctl is the folder of the kernel's settings: /proc/sys.
	Sysctl string
	// Networkd is systemd-networkd's folder of states, a file a link:
	// /run/systemd/netif.
	Networkd string
	// Starts is for how long networkd may take to start, beside the agent: a
	// minute.
	Starts time.Duration
	// Settle is for how long networkd, where it runs, may take to make br0
	// before that is done in its place: 5 s.
	Settle time.Duration
	// Patience is how long the name server may take to answer: 3 s.
	Patience time.Duration
	// Units starts the name server where it does not answer. None given: it is
	// only told.
	Units Units
	// Early says that the system still comes up: what is missing then and comes
	// with Docker, or with the name server's start, is waited for and no problem.
	// None given: it is up.
	Early func() bool
	// Log is told what was changed. None given: nobody is.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	for _, path := range []struct {
		to    *string
		value string
	}{
		{&o.Firewall, nodefile.ConfigDir + "/firewall.nft"},
		{&o.DockerUser, "/usr/lib/hatchery/docker-user"},
		{&o.RunDir, nodefile.RunDir},
		{&o.Sysctl, "/proc/sys"},
		{&o.Networkd, networkd.Dir},
	} {
		if *path.to == "" {
			*path.to = path.value
		}
	}
	if o.Starts == 0 {
		o.Starts = time.Minute
	}
	if o.Settle == 0 {
		o.Settle = 5 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 3 * time.Second
	}
	if o.Early == nil {
		o.Early = func() bool { return false }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// A Status is how the slots' network stands.
type Status struct {
	Index      int // the kernel's of br0, 0 without one
	MAC        net.HardwareAddr
	Address    netip.Prefix // the controller's own, once br0 has it
	Ports      []bridgeport.Port
	Forwarding bool
	Firewall   bool   // the table of our own is as its file has it
	DockerUser bool   // Docker's packet filter lets the slots through, or there is no Docker
	Names      bool   // the name server answers
	Uplink     string // the link of the default route, "" where there is none (yet)
	Repaired   []string
	Problems   []string // what does not work though br0 does
	Awaited    []string // what does not work yet, early in the boot
}

// String is the status in a line: "br0 172.19.181.254/24, 4 slots, uplink eth0".
func (s Status) String() string {
	if s.Index == 0 {
		return "no br0"
	}
	parts := []string{"br0"}
	if s.Address.IsValid() {
		parts[0] += " " + s.Address.String()
	}
	if n := len(s.Ports); n == 1 {
		parts = append(parts, "1 slot")
	} else {
		parts = append(parts, fmt.Sprintf("%d slots", n))
	}
	if s.Uplink != "" {
		parts = append(parts, "uplink "+s.Uplink)
	} else {
		parts = append(parts, "no uplink")
	}
	return strings.Join(append(parts, s.Problems...), ", ")
}

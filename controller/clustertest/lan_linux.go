package clustertest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"hatchery/internal/enginetest"
	"hatchery/internal/netspace"
	"hatchery/internal/testtool"
	"hatchery/overlays"
)

// LANMAC is the controller's on the LAN.
const LANMAC = "02:00:00:00:00:01"

// network is the controller's mode.
func (c *Cluster) network() string {
	if c.options.LAN != nil {
		return overlays.CBRIDGE
	}
	return overlays.CNAT
}

// render gives the files that a machine's image has.
func (c *Cluster) render(m *enginetest.Machine) []overlays.Entry {
	c.t.Helper()
	d := overlays.Data{
		Cluster: Name, Name: m.Name, Slot: m.Slot, Hostname: m.Hostname,
		User: overlays.User{Name: "pi"}, Network: c.network(), Release: "bookworm", Timezone: "Etc/UTC", Locale: "C.UTF-8",
		Docker: overlays.Docker{Packages: []string{"docker.io"}}, MachineID: strings.Repeat(fmt.Sprintf("%02x", m.Slot+1), 16), Epoch: time.Unix(1763769600, 0),
	}
	for _, other := range c.Machines() {
		d.Hosts = append(d.Hosts, overlays.Host{Name: other.Name, Slot: other.Slot, Hostname: other.Hostname})
	}
	entries, err := overlays.Render(d, overlays.Trees(m.Slot == 0)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return entries
}

// Root is where the files lie that a machine's image has, with a LAN.
func (c *Cluster) Root(m *enginetest.Machine) string { return filepath.Join(m.Dir, "root") }

// networkdRun stands for /run/systemd.
func networkdRun(m *enginetest.Machine) string { return filepath.Join(m.Dir, "networkd") }

// bridge plugs the controller into the LAN and does with the links what systemd and udev
// do with the files of the images, before any agent runs.
func (c *Cluster) bridge() {
	c.t.Helper()
	for _, tool := range []string{"nft", "dnsmasq", "sysctl"} {
		testtool.Need(c.t, tool)
	}
	ctl := c.Controller
	c.options.LAN.Plug(filepath.Base(ctl.NetNS()), "eth0", LANMAC)
	for _, m := range c.Machines() {
		c.layOut(m)
	}
	root := c.Root(ctl)
	// hatchery-firewall.service, and systemd-sysctl.
	c.Run(ctl, "nft", "-f", filepath.Join(root, "etc/hatchery/firewall.nft"))
	c.Run(ctl, "nft", "-f", filepath.Join(root, "etc/hatchery/firewall-root.nft"))
	c.Run(ctl, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	for _, m := range c.Machines() {
		if m.Slot != 0 { // docker.service
			c.Run(m, "nft", "-f", filepath.Join(c.Root(m), "etc/hatchery/inner.nft"))
		}
		c.StartNetworkd(m)
	}
	netspace.Eventually(c.t, "networkd makes br0", func() error {
		// udev's part, and /sys is to be the namespace's.
		cmd := exec.Command("ip", "netns", "exec", filepath.Base(ctl.NetNS()), "sh", "-euc",
			`test -e /sys/class/net/br0; exec sh "$0"`, filepath.Join(root, "usr/lib/hatchery/bridge-mac"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	c.names()
}

// StartNetworkd starts a machine's systemd-networkd.
func (c *Cluster) StartNetworkd(m *enginetest.Machine) *enginetest.Process {
	c.t.Helper()
	words := netspace.Networkd(c.t, c.Root(m), networkdRun(m))
	p, err := m.Go("networkd", m.Command(context.Background(), words[0], words[1:]...))
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// names runs the controller's name server out of its files, and what tells it of the
// LAN's: hatchery-dns.service and hatchery-resolv.path.
func (c *Cluster) names() {
	c.t.Helper()
	ctl, root := c.Controller, c.Root(c.Controller)
	conf, err := os.ReadFile(filepath.Join(root, "etc/hatchery/dnsmasq.conf"))
	if err != nil {
		c.t.Fatal(err)
	}
	resolv := filepath.Join(ctl.Dir, "resolv.conf")
	text := strings.ReplaceAll(string(conf), "=/etc/resolv.conf", "="+resolv)
	c.write(ctl, "dnsmasq.conf", []byte(strings.ReplaceAll(text, "=/etc/", "="+root+"/etc/")), 0o644)
	for name, words := range map[string][]string{
		"dnsmasq": {"dnsmasq", "--keep-in-foreground", "--user=root", "--conf-file=" + filepath.Join(ctl.Etc(), "dnsmasq.conf")},
		"resolv": {"sh", "-c", `while sleep 0.5; do "$0" "$1" "$2"; done`, filepath.Join(root, "usr/lib/hatchery/resolv"),
			filepath.Join(networkdRun(ctl), "netif/state"), resolv},
	} {
		if _, err := ctl.Go(name, ctl.Command(context.Background(), words[0], words[1:]...)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Run runs a program on a machine, and gives what it printed.
func (c *Cluster) Run(m *enginetest.Machine, words ...string) string {
	c.t.Helper()
	out, err := m.Command(context.Background(), words[0], words[1:]...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s on %s: %v: %s", strings.Join(words, " "), m.Name, err, out)
	}
	return string(out)
}

// layOut lays the files of a machine's image.
func (c *Cluster) layOut(m *enginetest.Machine) {
	c.t.Helper()
	for _, e := range c.render(m) {
		path := filepath.Join(c.Root(m), filepath.FromSlash(e.Path))
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case e.Mode.IsDir():
			err = os.MkdirAll(path, 0o755)
		case e.Mode&fs.ModeSymlink != 0:
			err = os.Symlink(e.Target, path)
		default:
			err = os.WriteFile(path, e.Content, e.Mode.Perm())
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

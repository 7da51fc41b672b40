package doctor

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/swarm"
)

// units are those of the controller's that must not have failed; the second half
// on one with Docker only.
var (
	units       = []string{"hatchery.service", "hatchery-firstboot.service", "hatchery-firewall.service", "hatchery-dns.service", "systemd-networkd.service"}
	dockerUnits = []string{"containerd.service", "docker.service"}
)

// expiring is how long before its end a certificate of the cluster's is told.
const expiring = 30 * 24 * time.Hour

// controller looks at the controller itself.
func (e *examination) controller(ctx context.Context) {
	if e.Health != nil {
		e.health(OnController, e.Health(ctx))
	} else {
		e.unchecked("the controller's own health", nil)
	}
	e.units(ctx)
	e.identity()
	e.rpiboot()
}

func (e *examination) units(ctx context.Context) {
	if e.Units == nil {
		e.unchecked("the controller's units", nil)
		return
	}
	list := units
	if e.Node.Docker {
		list = append(append([]string{}, units...), dockerUnits...)
	}
	for _, name := range list {
		active, reason, err := e.Units.UnitState(ctx, name)
		if err != nil {
			// Where systemd does not answer for one, it does for none.
			e.unchecked("the controller's units", err)
			return
		}
		if active == "failed" {
			e.found(UnitFailed, OnController, fmt.Sprintf("`journalctl -b -u %s` says why; `sudo systemctl restart %s`", name, name), "%s has failed: %s", name, reason)
		}
	}
}

// identity looks at the dates of the controller's certificate and of the
// cluster's CA.
func (e *examination) identity() {
	if e.Identity == nil {
		e.unchecked("the controller's certificate", nil)
		return
	}
	all := append([]*x509.Certificate{e.Identity.Certificate.Leaf}, e.Identity.Authorities...)
	for i, c := range all {
		if c == nil {
			continue
		}
		what := "the controller's certificate"
		if i > 0 {
			what = "the certificate of the cluster's CA"
		}
		const remedy = "look at the clock first; then `hatchery build --renew`, and flash or upgrade all images"
		switch now := e.Now(); {
		case now.Before(c.NotBefore):
			e.found(IdentityExpires, OnController, remedy, "%s is valid from %s, and the clock says %s", what, c.NotBefore.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
		case !now.Before(c.NotAfter):
			e.found(IdentityExpires, OnController, remedy, "%s expired on %s", what, c.NotAfter.UTC().Format(time.DateTime))
		case c.NotAfter.Sub(now) < expiring:
			e.found(IdentityExpires, OnController, remedy, "%s expires on %s", what, c.NotAfter.UTC().Format(time.DateTime))
		}
	}
}

// rpiboot looks for the other program that gives boot files to boards. Both at
// once take them from each other.
func (e *examination) rpiboot() {
	names, _ := filepath.Glob(filepath.Join(e.Root, "proc/[0-9]*/comm"))
	for _, name := range names {
		if command, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(command)) == "rpiboot" {
			e.found(RPIBoot, OnController, "`sudo systemctl disable --now clusterctrl-rpiboot`, or end it by hand",
				"rpiboot runs (process %s): it takes boards without cards from hatchery's service", filepath.Base(filepath.Dir(name)))
			return
		}
	}
}

// filter looks at what the packet filter does with what it forwards.
func (e *examination) filter(ctx context.Context) {
	if !e.Node.Docker {
		return
	}
	if e.Filter == nil {
		e.unchecked("the packet filter", nil)
		return
	}
	listing, err := e.Filter(ctx)
	if err != nil {
		e.unchecked("the packet filter", err)
		return
	}
	const remedy = "hatchery's agent puts it back within a minute: `sudo systemctl restart hatchery-firstboot` does it at once; whatever flushes the rules (netfilter-persistent, a firewall of your own) is to be made to leave DOCKER-USER alone"
	if why := forwarding(listing); why != "" {
		e.found(ForwardPolicy, OnController, remedy, "%s", why)
	}
}

// forwarding says why the slots' traffic is not forwarded, "" if it is: the
// rules that iptables -S lists.
func forwarding(listing string) string {
	var drops, jumps, out, in bool
	for text := range strings.Lines(listing) {
		switch text = strings.TrimSpace(text); {
		case text == "-P FORWARD DROP", text == "-P FORWARD REJECT":
			drops = true
		case text == "-A FORWARD -j DOCKER-USER":
			jumps = true
		case !strings.HasSuffix(text, " -j ACCEPT"):
		case text == "-A FORWARD -i "+clusterctrl.Bridge+" -j ACCEPT":
			in = true
		case strings.HasPrefix(text, "-A FORWARD ") && strings.Contains(text, " -o "+clusterctrl.Bridge+" "):
			out = true
		case text == "-A DOCKER-USER -i "+clusterctrl.Bridge+" -j ACCEPT":
			in = true
		case strings.HasPrefix(text, "-A DOCKER-USER ") && strings.Contains(text, " -o "+clusterctrl.Bridge+" "):
			out = true
		}
	}
	switch {
	case !drops:
		return ""
	case !jumps && !(in && out):
		return "the policy of FORWARD is DROP, and DOCKER-USER, with the rules for the slots, is not asked"
	case !in || !out:
		return "the policy of FORWARD is DROP, and no rule lets the slots' traffic through"
	}
	return ""
}

// addresses looks for networks that overlap.
func (e *examination) addresses(ctx context.Context) {
	slotNets := []netip.Prefix{clusterctrl.Network, clusterctrl.RootNetwork}
	const pools = "give Docker other networks: `default-address-pools` in /etc/docker/daemon.json, as hatchery's images have it, and remove the network (`docker network rm`)"
	var docker []network
	if e.Node.Docker && e.Engine != nil {
		list, err := e.Engine.Networks(ctx)
		if err != nil {
			e.unchecked("Docker's networks", err)
		}
		for _, n := range list {
			for _, p := range n.Subnets {
				docker = append(docker, network{n.Name, p})
				for _, s := range slotNets {
					if p.Overlaps(s) {
						e.found(AddressClash, OnController, pools, "Docker's network %s (%s) overlaps the slots' %s", line(n.Name), p, s)
					}
				}
			}
		}
	}
	if e.Node.Docker {
		e.pools(slotNets)
	}
	if e.Interfaces == nil {
		e.unchecked("the controller's addresses", nil)
		return
	}
	list, err := e.Interfaces()
	if err != nil {
		e.unchecked("the controller's addresses", err)
		return
	}
	for _, i := range list {
		if ofCluster(i.Name) {
			continue
		}
		for _, p := range i.Prefixes {
			if !p.Addr().Is4() || p.Addr().IsLoopback() {
				continue
			}
			for _, s := range slotNets {
				if p.Overlaps(s) {
					e.found(AddressClash, OnController, "give the LAN other addresses: the ClusterHAT's are fixed, in every tool for it", "the network of %s (%s) overlaps the slots' %s", i.Name, p, s)
				}
			}
			for _, d := range docker {
				if p.Overlaps(d.prefix) {
					e.found(AddressClash, OnController, pools+"; overlay networks: `swarm: {address_pool: …}` in cluster.yaml", "the network of %s (%s) overlaps Docker's network %s (%s)", i.Name, p, line(d.name), d.prefix)
				}
			}
		}
	}
}

type network struct {
	name   string
	prefix netip.Prefix
}

// ofCluster says that an interface is the cluster's own, or Docker's.
func ofCluster(name string) bool {
	switch name {
	case clusterctrl.Bridge, clusterctrl.InternalBridge, "lo", "docker0", "docker_gwbridge":
		return true
	}
	for _, prefix := range []string{clusterctrl.CardLinkPrefix, clusterctrl.BootLinkPrefix, "veth", "br-", "vxlan"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// maxDaemonFile is more than Docker's configuration takes, in bytes.
const maxDaemonFile = 256 << 10

// pools looks where Docker takes its networks from. By itself it takes
// 172.19.0.0/16 too (moby daemon/libnetwork/ipamutils).
func (e *examination) pools(slotNets []netip.Prefix) {
	const remedy = "set `default-address-pools` in /etc/docker/daemon.json, as hatchery's images have it: an overlay of yours took it away"
	file, err := os.Open(filepath.Join(e.Root, "etc/docker/daemon.json"))
	var settings struct {
		Pools []struct {
			Base string `json:"base"`
		} `json:"default-address-pools"`
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		e.unchecked("Docker's configuration", err)
		return
	default:
		defer file.Close()
		if err := json.NewDecoder(io.LimitReader(file, maxDaemonFile)).Decode(&settings); err != nil {
			e.unchecked("Docker's configuration", err)
			return
		}
	}
	if len(settings.Pools) == 0 {
		e.found(AddressPool, OnController, remedy, "Docker takes its networks from where it likes, %s among them, where the slots are", netip.PrefixFrom(clusterctrl.Network.Addr(), 16).Masked())
		return
	}
	for _, pool := range settings.Pools {
		p, err := netip.ParsePrefix(pool.Base)
		if err != nil {
			continue
		}
		for _, s := range slotNets {
			if p.Overlaps(s) {
				e.found(AddressPool, OnController, remedy, "Docker takes networks from %s, where the slots' %s is", p, s)
			}
		}
	}
}

// How programs end that the kernel ends for an instruction that is none, and for
// memory that is not theirs: 128 and the signal's number, signal(7).
const (
	exitIllegal = 128 + 4
	exitSegment = 128 + 11
)

// engine looks for containers that died of the wrong processor, among the tasks
// that the swarm remembers (the last five of a replica, in Docker's default).
func (e *examination) engine(ctx context.Context) {
	if !e.Node.Docker {
		return
	}
	if e.Engine == nil {
		e.unchecked("Docker", nil)
		return
	}
	nodes, err := e.Engine.Nodes(ctx)
	if err != nil {
		if e.view == nil || e.view.Swarm.State == "" {
			e.found(EngineDown, OnController, "`systemctl status docker` and `journalctl -u docker` say why", "Docker does not answer: %v", err)
		} else {
			e.unchecked("containers that died", err)
		}
		return
	}
	tasks, err := e.Engine.Tasks(ctx, "")
	var services []swarm.Service
	if err == nil {
		services, err = e.Engine.Services(ctx)
	}
	if err != nil {
		e.unchecked("containers that died", err)
		return
	}
	names := map[string]string{}
	for _, s := range services {
		names[s.ID] = line(s.Name)
	}
	architecture, where := map[string]string{}, map[string]string{}
	for _, n := range nodes {
		architecture[n.ID], where[n.ID] = line(n.Architecture), line(n.Hostname)
		for _, t := range e.Node.Targets {
			if t.Address == n.Addr || t.Name == n.Labels["hatchery.slot"] {
				where[n.ID] = t.Name
			}
		}
	}
	told := map[[2]string]bool{}
	for _, t := range tasks {
		place, arch := where[t.NodeID], architecture[t.NodeID]
		format := strings.Contains(t.Error, "exec format error")
		// Any program may crash. On ARMv6, what dies of an instruction that is
		// not there is of an image for ARMv7.
		crashed := strings.HasPrefix(arch, "armv6") && (t.ExitCode == exitIllegal || t.ExitCode == exitSegment)
		if t.State != "failed" && t.State != "rejected" || place == "" || !format && !crashed || told[[2]string{place, t.ServiceID}] {
			continue
		}
		told[[2]string{place, t.ServiceID}] = true
		how := fmt.Sprintf("ended with %d", t.ExitCode)
		if format {
			how = "does not run (exec format error)"
		}
		image, _, _ := strings.Cut(line(t.Image), "@")
		e.found(WrongProcessor, place,
			"use an image for this processor ("+wanted(arch)+"), or keep the service off such nodes with a constraint on a label: `--constraint node.labels.…` (docs/cluster-yaml.md, labels)",
			"a container of the service %s (%s) %s on an %s: its image is most likely for another processor", names[t.ServiceID], image, how, arch)
	}
}

// wanted is the platform of images for an engine's architecture.
func wanted(architecture string) string {
	switch {
	case strings.HasPrefix(architecture, "armv6"):
		return "linux/arm/v6"
	case strings.HasPrefix(architecture, "arm"):
		return "linux/arm/v7"
	case architecture == "aarch64":
		return "linux/arm64"
	case architecture == "x86_64":
		return "linux/amd64"
	}
	return "its own"
}

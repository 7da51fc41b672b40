package imagebuilder

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/identity"
	"hatchery/internal/nodefile"
	"hatchery/internal/spec"
	"hatchery/overlays"
)

// threeControllers is a cluster with three HATs.
func threeControllers(t *testing.T) *spec.Cluster {
	t.Helper()
	c, err := spec.Parse(filepath.Join(t.TempDir(), "cluster.yaml"), []byte(`
name: homelab
base: raspios_lite_armhf
user: {name: pi, password_hash: "$6$hatchery$vMJ4wnbRE3YYXAwIjL3sJsTALk.ROHlCL2uBdtRLxjJoljMzFG2bcrwUdRcwb01BCK/EeAQczCmVAV6qvUUMZ0"}
controller: {network: cbridge, model: 4}
controllers:
- {hostname: hammond, address: 192.168.42.11/24, slots: [p1, p2]}
- {hostname: landry, address: 192.168.42.12/24, slots: [p5]}
- {hostname: oneill, address: 192.168.42.13/24, slots: [p9]}
slots: {p5: {hostname: carter, labels: {disk: ssd}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestControllersAreTold has what each target of a cluster with three controllers
// knows: its own HAT by the inner network, and of the others where their
// controllers are; a controller also what the others' slots are to be labelled
// with.
func TestControllersAreTold(t *testing.T) {
	c := threeControllers(t)
	store, err := identity.Open(filepath.Join(c.Dir(), "identity"), c.Name)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := identities(store, c, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		target string
		want   string
		hosts  []string
	}{
		{"controller", "own hammond 192.168.42.11; targets controller 172.19.181.254, p1 172.19.181.1, p2 172.19.181.2; others landry p5 carter armv6 map[disk:ssd] 1, oneill p9 p9 armv6 map[] 1", nil},
		{"controller2", "own landry 192.168.42.12; targets controller2 172.19.181.254, p5 172.19.181.5; others hammond p1 p1 armv6 map[] 1 p2 p2 armv6 map[] 1, oneill p9 p9 armv6 map[] 1",
			[]string{"172.19.181.254 [landry controller2]", "172.19.181.5 [carter p5]", "192.168.42.11 [hammond controller]", "192.168.42.13 [oneill controller3]"}},
		{"p5", "own landry 192.168.42.12; targets controller2 172.19.181.254, p5 172.19.181.5; others hammond, oneill", nil},
	} {
		selected, err := c.Select([]string{test.target})
		if err != nil {
			t.Fatal(err)
		}
		d := overlayData(c, selected[0], ids.personality(test.target, time.Unix(1763769600, 0)), "armhf")
		d.Release = "bookworm"
		if _, err := overlays.Render(d, overlays.Trees(d.Controller())...); err != nil {
			t.Errorf("%s: %v", test.target, err)
		}
		text, err := d.NodeJSON()
		if err != nil {
			t.Fatal(err)
		}
		n, err := nodefile.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		own, _ := n.Own()
		var targets, others []string
		for _, other := range n.Targets {
			targets = append(targets, other.Name+" "+other.Address.String())
		}
		for _, other := range n.Others() {
			line := other.Hostname
			for _, s := range other.Slots {
				line += fmt.Sprint(" ", s.Name, " ", s.Hostname, " ", s.Arch, " ", s.Labels, " ", s.Generation)
			}
			others = append(others, line)
		}
		got := fmt.Sprintf("own %s %s; targets %s; others %s", own.Hostname, n.SwarmAddr(), strings.Join(targets, ", "), strings.Join(others, ", "))
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.target, diff)
		}
		var hosts []string
		for _, line := range d.HostLines() {
			hosts = append(hosts, fmt.Sprint(line.Addr, " ", line.Names))
		}
		if diff := cmp.Diff(test.hosts, hosts); test.hosts != nil && diff != "" {
			t.Errorf("%s: %s", test.target, diff)
		}
	}
	// The controllers have one key in common, the nodes none of it.
	for target, has := range map[string]bool{"controller": true, "controller2": true, "controller3": true, "p5": false} {
		key := ids.personality(target, time.Unix(0, 0)).versions
		if has != bytes.Equal(key, store.VersionsKey()) || !has && key != nil {
			t.Errorf("%s has the key %x", target, key)
		}
	}
	alone := *c
	alone.Controllers = nil
	if one, err := identities(store, &alone, nil, false); err != nil || one.versions != nil {
		t.Errorf("the only controller has the key %x, %v", one.versions, err)
	}
	if at := ids.byName["controller2"]; !strings.Contains(fmt.Sprint(at), "controller2, generation 1") {
		t.Errorf("%v", at)
	}
}

// TestControllersAreReached has the way to slots through their own controllers.
func TestControllersAreReached(t *testing.T) {
	c := threeControllers(t)
	config, err := sshConfig(c, "/out/known_hosts")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Host landry controller2\n  HostName 192.168.42.12\n", "Host carter p5\n  HostName 172.19.181.5\n  ProxyJump landry\n", "Host p2\n  HostName 172.19.181.2\n  ProxyJump hammond\n"} {
		if !strings.Contains(string(config), want) {
			t.Errorf("no %q in\n%s", want, config)
		}
	}
	known := string(knownHosts(c, map[string]string{}))
	if strings.Contains(known, "172.19.181.254") || !strings.Contains(known, "landry,controller2,192.168.42.12 ") {
		t.Errorf("known_hosts:\n%s", known)
	}
	groups, err := inventory(c, "/out/ssh_config")
	if err != nil || !strings.HasPrefix(string(groups), "[clusterctrl_server]\nhammond hatchery_target=controller\nlandry hatchery_target=controller2\noneill hatchery_target=controller3\n\n[clusterctrl_nodes]\np1 ") {
		t.Errorf("%v, inventory:\n%s", err, groups)
	}
	for _, n := range nodesFor(c, func(spec.Base) string { return "armhf" }) {
		if want := map[string]netip.Addr{"controller2": netip.MustParseAddr("192.168.42.12")}; n.Name == "controller2" && n.Addr != want[n.Name] || n.Name == "p5" && n.Addr.IsValid() {
			t.Errorf("%s has the address %v", n.Name, n.Addr)
		}
	}
}

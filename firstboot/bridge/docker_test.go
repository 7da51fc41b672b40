//go:build linux

package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/enginetest"
	"hatchery/internal/netspace"
	"hatchery/overlays"
)

// TestDocker: a real engine starts on the controller, finds forwarding off and
// drops what it does not know, is restarted and killed; the slots reach each
// other, the world and the name server all the same, as long as somebody keeps
// the bridge.
func TestDocker(t *testing.T) {
	needRules(t)
	lab := enginetest.New(t, enginetest.Options{Slots: []int{1, 2}, Bare: true, Uplink: true})
	ctl, p1, p2 := lab.Controller, lab.Slot(1), lab.Slot(2)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The lab's machines are namespaces as well: the helpers run in them too.
	helper := func(ctx context.Context, m *enginetest.Machine, what string, args ...string) *exec.Cmd {
		return netspace.Helper(m.Command(ctx, self, args...), what)
	}
	output := func(m *enginetest.Machine, what string, args ...string) string {
		t.Helper()
		out, err := helper(t.Context(), m, what, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q on %s: %v\n%s", what, args, m.Name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run := func(m *enginetest.Machine, name string, args ...string) string {
		t.Helper()
		out, err := m.Command(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q on %s: %v\n%s", name, args, m.Name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	start := func(m *enginetest.Machine, name string, cmd *exec.Cmd) *enginetest.Process {
		t.Helper()
		p, err := m.Go(name, cmd)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for n, p := range []*enginetest.Machine{p1, p2} {
		run(p, "sh", "-euc", fmt.Sprintf("ip addr add 172.19.181.%d/24 dev usb0; ip link set usb0 up; ip route add default via 172.19.181.254", n+1))
	}
	root := controllerFiles(t, overlays.CNAT)
	args := []string{"-root", root, "-run", filepath.Join(ctl.Run(), "hatchery"), "-docker"}
	keeper := func() *enginetest.Process { return start(ctl, "keep", helper(t.Context(), ctl, "keep", args...)) }

	start(p2, "serve", helper(t.Context(), p2, "serve", "172.19.181.2:9999"))
	start(lab.Uplink, "serve", helper(t.Context(), lab.Uplink, "serve", "192.0.2.1:9999"))
	conf := filepath.Join(root, "etc/hatchery/dnsmasq.conf")
	start(ctl, "names", ctl.Command(t.Context(), "dnsmasq", "--keep-in-foreground", "--conf-file="+conf, "--user=root", "--log-facility=-"))
	// reach asks from slot 1 for the other slot, the world and a name.
	reach := func() string {
		t.Helper()
		return strings.Join([]string{output(p1, "ask", "172.19.181.2:9999"), output(p1, "ask", "192.0.2.1:9999"),
			output(p1, "resolve", "172.19.181.254:53", "hammond")}, ", ")
	}
	const all = "172.19.181.1, 192.0.2.254, [172.19.181.254] <nil>"
	kept := func(summary string) {
		t.Helper()
		netspace.Eventually(t, summary, func() error {
			if got := reach(); got != all {
				return errors.New(got)
			}
			return nil
		})
	}

	keep := keeper()
	kept("without Docker")

	// Nobody keeps it, forwarding is off, and Docker starts: the slots are cut
	// off, by its policy. Where the kernel has br_netfilter, from each other
	// too.
	keep.Kill()
	run(ctl, "sh", "-euc", "echo 0 >/proc/sys/net/ipv4/ip_forward; iptables -w -F; iptables -w -X")
	neighbour := "172.19.181.1"
	if got := run(ctl, "sh", "-euc", "cd /proc/sys/net/bridge 2>/dev/null || exit 0; echo 1 >bridge-nf-call-iptables; echo on"); got == "on" {
		neighbour = "no answer"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := ctl.StartEngine(ctx); err != nil {
		t.Fatal(err)
	}
	if got := run(ctl, "iptables", "-w", "-S", "FORWARD"); !strings.Contains(got, "-P FORWARD DROP") {
		t.Fatalf("the engine was to be at its worst, and is not: %s", got)
	}
	if got, want := reach(), neighbour+", no answer, [172.19.181.254] <nil>"; got != want {
		t.Errorf("nobody keeps it: %s, not %s", got, want)
	}
	keeper()
	kept("Docker is there first")

	if err := ctl.RestartEngine(ctx); err != nil {
		t.Fatal(err)
	}
	kept("the engine is restarted")
	ctl.KillEngine()
	kept("the engine is killed")
	if err := ctl.StartEngine(ctx); err != nil {
		t.Fatal(err)
	}
	kept("the engine comes back")
	if got := run(ctl, "iptables", "-w", "-S", "FORWARD"); !strings.Contains(got, "-P FORWARD DROP") || !strings.Contains(got, "-j DOCKER-USER") {
		t.Errorf("this was to be proved against a policy that drops: %s", got)
	}

	// A firewall tool clears everything, and Docker is told to start anew.
	run(ctl, "nft", "flush", "ruleset")
	kept("everything is flushed")
	if err := ctl.RestartEngine(ctx); err != nil {
		t.Fatal(err)
	}
	run(ctl, "iptables", "-w", "-P", "FORWARD", "DROP")
	kept("and the engine makes its rules anew")
	// The rules are there once, whatever happened.
	if got := run(ctl, "iptables", "-w", "-S", "DOCKER-USER"); strings.Count(got, "-i br0 -j ACCEPT") != 1 || strings.Count(got, "-o br0") != 1 {
		t.Errorf("the rules: %s", got)
	}

	// A slot is switched off and on meanwhile.
	if err := p1.Unplug(); err != nil {
		t.Fatal(err)
	}
	if err := p1.Plug(); err != nil {
		t.Fatal(err)
	}
	run(p1, "sh", "-euc", "ip addr add 172.19.181.1/24 dev usb0; ip link set usb0 up; ip route add default via 172.19.181.254")
	kept("a slot is switched off and on")
}

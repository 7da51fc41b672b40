package doctor_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller/doctor"
	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/netboot"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A cluster is what a doctor looks at.
type cluster struct {
	doctor.Options
	view    *enrol.ClusterView
	viewErr error
	boots   *netboot.View
	health  *enrol.Health
	engine  *engine
	units   map[string]string
	filter  string
	nets    []doctor.Interface
	files   map[string]string
}

type engine struct {
	nodes    []swarm.Node
	networks []swarm.Network
	tasks    []swarm.Task
	err      error
}

func (e *engine) Nodes(context.Context) ([]swarm.Node, error)       { return e.nodes, e.err }
func (e *engine) Networks(context.Context) ([]swarm.Network, error) { return e.networks, e.err }
func (e *engine) Tasks(_ context.Context, node string) ([]swarm.Task, error) {
	return e.tasks, e.err
}
func (e *engine) Services(context.Context) ([]swarm.Service, error) {
	return []swarm.Service{{ID: "s1", Name: "web"}, {ID: "s2", Name: "db"}}, e.err
}

type units map[string]string

func (u units) UnitState(_ context.Context, name string) (active, reason string, err error) {
	if state := u[name]; state != "" {
		return state, "exit-code", nil
	}
	return "active", "", nil
}

func at(ago time.Duration) *time.Time {
	t := now.Add(-ago)
	return &t
}

// well is a cluster of three nodes, of which p3 has no card, and nothing is
// wrong.
func well() *cluster {
	c := &cluster{
		view: &enrol.ClusterView{
			Cluster: "homelab", Time: now, TimeSource: enrol.TimeNTP, Swarm: enrol.SwarmState{State: "active"},
			Backup: &enrol.BackupView{Taken: now.Add(-time.Hour), Nodes: []string{"p1"}},
			Slots: []enrol.SlotView{
				{Slot: 1, Name: "p1", LastSeen: at(5 * time.Second), AgentVersion: "v1", Step: "steady", State: "done", NodeID: "n1", NodeState: "ready", Availability: "active", Power: "on", Link: "up", Generation: 1, MinGeneration: 1},
				{Slot: 2, Name: "p2", LastSeen: at(9 * time.Second), AgentVersion: "v1", Step: "steady", State: "done", NodeID: "n2", NodeState: "ready", Availability: "active"},
				{Slot: 3, Name: "p3", LastSeen: at(9 * time.Second), AgentVersion: "v1", Step: "steady", State: "done", NodeID: "n3", NodeState: "ready", Availability: "active", Root: "netboot"},
			},
		},
		boots: &netboot.View{Slots: []netboot.SlotView{
			{Status: slots.Status{Slot: "p1", State: slots.Card}, Number: 1, Mode: store.Off},
			{Status: slots.Status{Slot: "p3", State: slots.Ready}, Number: 3, Mode: store.Netboot, Disk: &netboot.DiskView{Stored: 10 << 20, Quota: 1 << 30}},
		}},
		health: &enrol.Health{Kernel: "6.12"},
		engine: &engine{
			nodes: []swarm.Node{
				{ID: "n0", Addr: netip.MustParseAddr("172.19.181.254"), Architecture: "armv7l", Hostname: "hammond"},
				{ID: "n1", Addr: netip.MustParseAddr("172.19.181.1"), Architecture: "armv6l", Hostname: "oneil"},
				{ID: "n2", Addr: netip.MustParseAddr("172.19.181.2"), Architecture: "aarch64", Hostname: "carter"},
			},
			networks: []swarm.Network{
				{Name: "bridge", Driver: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}},
				{Name: "ingress", Driver: "overlay", Subnets: []netip.Prefix{netip.MustParsePrefix("10.181.0.0/24")}},
			},
			// Any program may crash: on an arm64 that says nothing.
			tasks: []swarm.Task{{ServiceID: "s1", Image: "nginx", NodeID: "n2", State: "failed", ExitCode: 139}, {ServiceID: "s1", NodeID: "n1", State: "failed", ExitCode: 1}, {ServiceID: "s1", NodeID: "n1", State: "running"}},
		},
		filter: "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A DOCKER-USER -i br0 -j ACCEPT\n-A DOCKER-USER -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A DOCKER-USER -j RETURN\n",
		nets: []doctor.Interface{
			{Name: "lo", Prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
			{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.20/24"), netip.MustParsePrefix("fe80::1/64")}},
			{Name: "br0", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.19.181.254/24")}},
			{Name: "docker0", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}},
		},
		units: map[string]string{"hatchery-dns.service": "inactive"},
		files: map[string]string{
			"etc/docker/daemon.json": `{"bip": "172.17.0.1/16", "default-address-pools": [{"base": "172.18.0.0/16", "size": 24}, {"base": "172.20.0.0/14", "size": 24}]}`,
			"proc/1/comm":            "systemd\n",
		},
	}
	c.Node = &nodefile.Node{Cluster: "homelab", Role: nodefile.Controller, Docker: true, Netboot: &nodefile.Netboot{}, Targets: []nodefile.Target{
		{Name: "controller", Address: netip.MustParseAddr("172.19.181.254")},
		{Name: "p1", Slot: 1, Model: "zero", Address: netip.MustParseAddr("172.19.181.1")},
		{Name: "p2", Slot: 2, Model: "zero-2-w", Address: netip.MustParseAddr("172.19.181.2")},
		{Name: "p3", Slot: 3, Model: "zero-2-w", Address: netip.MustParseAddr("172.19.181.3")},
	}}
	c.Identity = &enrol.Identity{
		Certificate: tls.Certificate{Leaf: &x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10000 * time.Hour)}},
		Authorities: []*x509.Certificate{{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90000 * time.Hour)}},
	}
	c.Version = "v1"
	return c
}

func (c *cluster) examine(t *testing.T) *doctor.Report {
	t.Helper()
	o := c.Options
	o.Root = t.TempDir()
	for name, content := range c.files {
		place := filepath.Join(o.Root, name)
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o.Now = func() time.Time { return now }
	o.View = func(context.Context) (*enrol.ClusterView, error) { return c.view, c.viewErr }
	o.Boots = func(context.Context) (*netboot.View, error) { return c.boots, nil }
	o.Health = func(context.Context) *enrol.Health { return c.health }
	o.Engine, o.Units = c.engine, units(c.units)
	o.Interfaces = func() ([]doctor.Interface, error) { return c.nets, nil }
	o.Filter = func(context.Context) (string, error) { return c.filter, nil }
	return doctor.Examine(t.Context(), o)
}

func told(r *doctor.Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s %s: %s\n", f.Severity, f.Where, f.Code, f.Detail)
	}
	for _, what := range r.Unchecked {
		fmt.Fprintf(&b, "unchecked: %s\n", what)
	}
	return b.String()
}

func TestNothingIsWrong(t *testing.T) {
	r := well().examine(t)
	if got := told(r); got != "" || r.Sick() {
		t.Errorf("%s", got)
	}
}

// slot is a slot of the service's view.
func (c *cluster) slot(n int) *enrol.SlotView { return &c.view.Slots[n-1] }

// p3 is the slot without a card, as netboot has it.
func (c *cluster) p3() *netboot.SlotView { return &c.boots.Slots[1] }

func history(states ...slots.State) (all []slots.Entry) {
	for _, s := range states {
		all = append(all, slots.Entry{State: s})
	}
	return all
}

func TestFindings(t *testing.T) {
	seen := map[string]bool{}
	for _, test := range []struct {
		summary string
		change  func(c *cluster)
		want    string
		sick    bool
	}{
		{"the service does not answer", func(c *cluster) { c.viewErr = errors.New("nobody answers") },
			"broken controller service-down: the controller's service does not answer: nobody answers\nunchecked: the slots: the service does not answer", true},
		{"an untrusted clock", func(c *cluster) { c.view.TimeSource = enrol.TimeUntrusted },
			"broken controller clock: the controller does not know the time: until then it lets no node join", true},
		{"an untrusted clock, of which the machine has said so", func(c *cluster) {
			c.view.TimeSource = enrol.TimeUntrusted
			c.health.Findings = []enrol.Finding{{Code: health.Clock, Detail: "no time server", Remedy: "one"}}
		}, "broken controller clock: no time server", true},
		{"a swarm in error", func(c *cluster) { c.view.Swarm = enrol.SwarmState{State: "error", Error: "no CA"} },
			"broken controller swarm-down: the controller's swarm is error, no CA", true},
		{"no backup", func(c *cluster) { c.view.Backup = nil }, "warning controller backup-missing: there is no backup of the swarm yet", true},
		{"no backup, and nobody to keep one", func(c *cluster) {
			c.view.Backup = nil
			for i := range c.view.Slots {
				c.view.Slots[i] = enrol.SlotView{Slot: i + 1, Name: fmt.Sprintf("p%d", i+1), Power: "off"}
			}
		}, "note p1 slot-off: it is switched off\nnote p2 slot-off: it is switched off\nnote p3 slot-off: it is switched off", false},
		{"a backup that failed", func(c *cluster) { c.view.Backup.Error = "no room" }, "warning controller backup-missing: the swarm's backup: no room", true},
		{"a backup that is nowhere", func(c *cluster) { c.view.Backup.Nodes = nil }, "warning controller backup-missing: no node keeps the swarm's backup", true},
		{"an old backup", func(c *cluster) { c.view.Backup.Taken = now.Add(-72 * time.Hour) }, "warning controller backup-missing: the swarm's newest backup is of 2026-02-26 12:00:00", true},
		{"an alarm", func(c *cluster) {
			c.view.Alarms = []enrol.AlarmEntry{{Time: now, Slot: 2, Code: enrol.Clone, Detail: "two of them"}}
		}, "warning p2 alarm: clone, at 2026-03-01 12:00:00: two of them", true},
		{"never heard", func(c *cluster) { c.slot(2).LastSeen, c.slot(2).NodeState = nil, "down" },
			"broken p2 node-silent: it was not heard since the service started", true},
		{"silent, with a link", func(c *cluster) { c.slot(1).LastSeen = at(10 * time.Minute) },
			"broken p1 node-silent: it was last heard 10m0s ago, though its USB link is up: its agent does not run, or hangs", true},
		{"silent, without", func(c *cluster) { c.slot(1).LastSeen, c.slot(1).Link = at(10*time.Minute), "down" },
			"broken p1 node-silent: it was last heard 10m0s ago, and it has no USB link: it does not boot, or hangs", true},
		{"silent, while it is rebuilt", func(c *cluster) {
			c.slot(1).LastSeen, c.slot(1).Operation = at(10*time.Minute), &enrol.OperationView{Kind: "rebuild"}
		}, "", false},
		{"a card that was given up", func(c *cluster) {
			c.slot(1).LastSeen, c.slot(1).Operation = at(time.Hour), &enrol.OperationView{Kind: "card", Detail: "the card is being written: switched off and on in vain", GivenUp: true}
		}, "broken p1 card-given-up: its card is begun and not whole, and nobody goes on with it: the card is being written: switched off and on in vain", true},
		{"a card that was given up, of which netboot has said why", func(c *cluster) {
			c.boots.Slots[0].Status = slots.Status{Slot: "p1", State: slots.Failed, Reason: "its card is half written, and bootcode.bin does not run"}
			c.slot(1).LastSeen, c.slot(1).Operation = at(time.Hour), &enrol.OperationView{Kind: "card", Detail: "given up", GivenUp: true}
		}, "broken p1 slot-dead: it is started over USB to go on writing its card, and does not get there: its card is half written, and bootcode.bin does not run", true},
		{"refused", func(c *cluster) { c.slot(1).Refused = "revoked: its card is lost" }, "broken p1 node-refused: its last call was refused: revoked: its card is lost", true},
		{"revoked", func(c *cluster) { c.slot(1).MinGeneration = 2 }, "note p1 node-revoked: it is revoked, and waits for a card of generation 2", false},
		{"down, and heard", func(c *cluster) { c.slot(1).NodeState = "down" }, "broken p1 node-down: its agent is heard, and the swarm says that the node is down", true},
		{"drained by hand", func(c *cluster) { c.slot(1).Availability = "drain" }, "note p1 node-inactive: its availability is drain: it takes no tasks", false},
		{"a step that fails", func(c *cluster) {
			c.slot(1).Step, c.slot(1).State, c.slot(1).Detail = "packages", "failed", "dpkg\x1b[2J"
		},
			"broken p1 step-failed: its agent's step packages fails: dpkg[2J", true},
		{"an operation went wrong", func(c *cluster) { c.slot(1).LastError = &enrol.Told{Time: now, Text: "rebuild: no image"} },
			"warning p1 slot-error: 2026-03-01 12:00:00: rebuild: no image", true},
		{"versions", func(c *cluster) { c.slot(1).AgentVersion = "v0" }, "warning p1 versions-differ: its agent is v0, the controller's service v1", true},
		{"a node's own finding", func(c *cluster) {
			c.slot(2).Health = &enrol.Health{Findings: []enrol.Finding{{Code: health.CardErrors, Detail: "3 errors", Remedy: "a new card"}}}
		}, "broken p2 card-errors: 3 errors", true},
		{"one of a newer agent", func(c *cluster) {
			c.slot(2).Health = &enrol.Health{Findings: []enrol.Finding{{Code: "on-fire", Detail: "smoke"}}}
		}, "warning p2 unknown: on-fire: smoke", true},
		{"the controller's own", func(c *cluster) { c.health.Findings = []enrol.Finding{{Code: health.LowVoltage, Detail: "low"}} },
			"warning controller low-voltage: low", true},
		{"what the controller's agent found", func(c *cluster) {
			c.health.Findings = []enrol.Finding{{Code: health.LowVoltage, Detail: "low"}}
			c.view.Health = &enrol.Health{Findings: []enrol.Finding{{Code: health.CardErrors, Detail: "7 errors", Remedy: "a new card"}, {Code: health.LowVoltage, Detail: "low, a minute ago"}}}
		}, "broken controller card-errors: 7 errors\nwarning controller low-voltage: low", true},
		{"a unit", func(c *cluster) { c.units["docker.service"] = "failed" }, "broken controller unit-failed: docker.service has failed: exit-code", true},
		{"rpiboot", func(c *cluster) { c.files["proc/77/comm"] = "rpiboot\n" }, "broken controller rpiboot-running: rpiboot runs (process 77): it takes boards without cards from hatchery's service", true},
		{"an expired certificate", func(c *cluster) { c.Identity.Certificate.Leaf.NotAfter = now }, "broken controller identity-expires: the controller's certificate expired on 2026-03-01 12:00:00", true},
		{"a CA that expires", func(c *cluster) { c.Identity.Authorities[0].NotAfter = now.Add(time.Hour) }, "broken controller identity-expires: the certificate of the cluster's CA expires on 2026-03-01 13:00:00", true},
		{"a certificate of tomorrow", func(c *cluster) { c.Identity.Certificate.Leaf.NotBefore = now.Add(time.Hour) },
			"broken controller identity-expires: the controller's certificate is valid from 2026-03-01 13:00:00, and the clock says 2026-03-01 12:00:00", true},
		{"rules that were flushed", func(c *cluster) { c.filter = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -o docker0 -j ACCEPT\n" },
			"broken controller forward-policy: the policy of FORWARD is DROP, and DOCKER-USER, with the rules for the slots, is not asked", true},
		{"a chain without the rules", func(c *cluster) {
			c.filter = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -i br0 -j DROP\n-A DOCKER-USER -j RETURN\n"
		}, "broken controller forward-policy: the policy of FORWARD is DROP, and no rule lets the slots' traffic through", true},
		{"rules of somebody else's in FORWARD", func(c *cluster) {
			c.filter = "-P FORWARD DROP\n-A FORWARD -i br0 -j ACCEPT\n-A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
		}, "", false},
		{"a policy that accepts", func(c *cluster) { c.filter = "-P FORWARD ACCEPT\n" }, "", false},
		{"a network of Docker's in the slots'", func(c *cluster) {
			c.engine.networks = append(c.engine.networks, swarm.Network{Name: "shop_default", Subnets: []netip.Prefix{netip.MustParsePrefix("172.19.0.0/16")}})
		}, "broken controller address-clash: Docker's network shop_default (172.19.0.0/16) overlaps the slots' 172.19.181.0/24\nbroken controller address-clash: Docker's network shop_default (172.19.0.0/16) overlaps the slots' 172.19.180.0/24", true},
		{"a LAN in the slots'", func(c *cluster) { c.nets[1].Prefixes[0] = netip.MustParsePrefix("172.19.181.20/23") },
			"broken controller address-clash: the network of eth0 (172.19.181.20/23) overlaps the slots' 172.19.181.0/24\nbroken controller address-clash: the network of eth0 (172.19.181.20/23) overlaps the slots' 172.19.180.0/24", true},
		{"a LAN in an overlay network's", func(c *cluster) { c.nets[1].Prefixes[0] = netip.MustParsePrefix("10.0.0.5/8") },
			"broken controller address-clash: the network of eth0 (10.0.0.5/8) overlaps Docker's network ingress (10.181.0.0/24)", true},
		{"no pools", func(c *cluster) { c.files["etc/docker/daemon.json"] = "{}" },
			"warning controller address-pool: Docker takes its networks from where it likes, 172.19.0.0/16 among them, where the slots are", true},
		{"no file", func(c *cluster) { delete(c.files, "etc/docker/daemon.json") },
			"warning controller address-pool: Docker takes its networks from where it likes, 172.19.0.0/16 among them, where the slots are", true},
		{"a pool in the slots'", func(c *cluster) {
			c.files["etc/docker/daemon.json"] = `{"default-address-pools": [{"base": "x"}, {"base": "172.19.181.0/25"}]}`
		}, "warning controller address-pool: Docker takes networks from 172.19.181.0/25, where the slots' 172.19.181.0/24 is", true},
		{"an image for ARMv7 on an ARMv6", func(c *cluster) {
			c.engine.tasks = []swarm.Task{{ServiceID: "s1", Image: "nginx:1@sha256:aa", NodeID: "n1", State: "failed", ExitCode: 139}, {ServiceID: "s1", NodeID: "n1", State: "failed", ExitCode: 132}, {ServiceID: "s2", NodeID: "gone", State: "failed", ExitCode: 132}}
		}, "broken p1 wrong-processor: a container of the service web (nginx:1) ended with 139 on an armv6l: its image is most likely for another processor", true},
		{"an image of another kind", func(c *cluster) {
			c.engine.tasks = []swarm.Task{{ServiceID: "s1", Image: "nginx:1", NodeID: "n2", State: "rejected", Error: "exec /nginx: exec format error"}}
		}, "broken p2 wrong-processor: a container of the service web (nginx:1) does not run (exec format error) on an aarch64: its image is most likely for another processor", true},
		{"Docker does not answer", func(c *cluster) {
			c.engine.err, c.view.Swarm.State = errors.New("no socket"), ""
		}, "broken controller swarm-down: the controller's swarm is not known: the engine does not answer\nbroken controller engine-down: Docker does not answer: no socket\nunchecked: Docker's networks: no socket", true},
		{"a card in a slot without", func(c *cluster) { c.p3().State, c.slot(3).LastSeen = slots.Card, nil },
			"warning p3 card-in-slot: it booted from a card, and is to boot without one: the boot ROM prefers the card", true},
		{"the trap of a Zero 2 W", func(c *cluster) {
			c.p3().Status = slots.Status{Slot: "p3", State: slots.Failed, Reason: "bootcode.bin does not run", Events: history(slots.ROM, slots.Bootcode, slots.ROM, slots.Bootcode, slots.Failed)}
			c.slot(3).LastSeen = nil
		}, "broken p3 zero2-boot-rom: a Zero 2 W that hangs with its boot ROM: bootcode.bin does not run", true},
		{"the trap, while it is tried again", func(c *cluster) {
			c.p3().Status = slots.Status{Slot: "p3", State: slots.ROM, Tries: 1, Detail: "again", Events: history(slots.Bootcode, slots.Off, slots.ROM)}
			c.slot(3).LastSeen = nil
		}, "broken p3 zero2-boot-rom: a Zero 2 W that hangs with its boot ROM: again", true},
		{"a Zero in the same way", func(c *cluster) {
			c.Node.Targets[3].Model = "zero"
			c.p3().Status = slots.Status{Slot: "p3", State: slots.Failed, Reason: "bootcode.bin does not run", Events: history(slots.ROM, slots.Bootcode, slots.Failed)}
		}, "broken p3 slot-dead: it does not get past bootcode: bootcode.bin does not run", true},
		{"no boot ROM", func(c *cluster) {
			c.p3().Status = slots.Status{Slot: "p3", State: slots.Failed, Reason: "nothing on USB", Events: history(slots.Off, slots.ROM, slots.Failed)}
			c.slot(3).LastSeen = nil
		}, "broken p3 slot-dead: its boot ROM is not seen: nothing on USB", true},
		{"a kernel that does not start", func(c *cluster) {
			c.p3().Status = slots.Status{Slot: "p3", State: slots.Failed, Reason: "there is no link", Events: history(slots.ROM, slots.Bootcode, slots.Files, slots.Link, slots.Failed)}
		}, "broken p3 slot-dead: it does not get past link: there is no link", true},
		{"a slot that boots as it should", func(c *cluster) {
			c.p3().Status = slots.Status{Slot: "p3", State: slots.Files, Events: history(slots.ROM, slots.Bootcode, slots.Files)}
		}, "", false},
		{"a slot with a card needs no root", func(c *cluster) {
			c.boots.Slots[0].Problem, c.boots.Slots[0].State = "no root", slots.Failed
		}, "", false},
		{"a card that is half written, and a board that hangs", func(c *cluster) {
			c.boots.Slots[0].Status = slots.Status{Slot: "p1", State: slots.Rescue, Tries: 1, Detail: "its second stage is awaited"}
			c.slot(1).LastSeen = nil
		}, "broken p1 slot-dead: it is started over USB to go on writing its card, and does not get there: its second stage is awaited", true},
		{"a card that is half written, and a board that was given up", func(c *cluster) {
			c.boots.Slots[0].Status = slots.Status{Slot: "p1", State: slots.Failed, Reason: "its card is half written, and bootcode.bin does not run"}
			c.slot(1).LastSeen = nil
		}, "broken p1 slot-dead: it is started over USB to go on writing its card, and does not get there: its card is half written, and bootcode.bin does not run", true},
		{"a card that is half written, and goes on", func(c *cluster) {
			c.boots.Slots[0].Status = slots.Status{Slot: "p1", State: slots.Rescue}
		}, "", false},
		{"no root", func(c *cluster) { c.p3().Problem = "no root is pushed" }, "warning p3 netboot-problem: no root is pushed", true},
		{"a problem of all", func(c *cluster) { c.boots.Problems = []string{"the wiring is not known"} }, "warning controller netboot-problem: the wiring is not known", true},
		{"a full disk", func(c *cluster) { c.p3().Disk.Refused = 3 }, "warning p3 disk-quota: 3 of its writes found no room on the controller", true},
		{"a nearly full disk", func(c *cluster) { c.p3().Disk.Stored = 1000 << 20 }, "warning p3 disk-quota: it has stored 1000 MiB of the 1024 that it may", true},
		{"what cannot be stored", func(c *cluster) { c.p3().Disk.FlushError = "I/O error" }, "warning p3 netboot-problem: what it writes cannot be stored: I/O error", true},
	} {
		c := well()
		test.change(c)
		r := c.examine(t)
		want := test.want
		if want != "" {
			want += "\n"
		}
		if got := told(r); got != want {
			t.Errorf("%s:\n%swant\n%s", test.summary, got, want)
		}
		if r.Sick() != test.sick {
			t.Errorf("%s: sick %v", test.summary, r.Sick())
		}
		for _, f := range r.Findings {
			seen[f.Code] = true
			if f.Remedy == "" && f.Code != health.LowVoltage && f.Code != doctor.Unknown || strings.HasSuffix(f.Remedy, "…") {
				t.Errorf("%s: the remedy is %q", test.summary, f.Remedy)
			}
		}
	}
	known := map[string]bool{}
	for _, code := range health.Codes() {
		known[code] = true
	}
	for _, c := range doctor.Codes() {
		if !seen[c.Code] && !known[c.Code] {
			t.Errorf("nothing has shown %s", c.Code)
		}
	}
}

// The worst comes first; then the cluster, the controller, the slots in their
// order.
func TestOrder(t *testing.T) {
	c := well()
	c.slot(1).Availability = "drain"
	c.slot(2).NodeState = "down"
	c.view.Backup = nil
	c.units["docker.service"] = "failed"
	c.view.Alarms = []enrol.AlarmEntry{{Time: now, Code: enrol.Clone, Detail: "x"}}
	c.view.Slots = append(c.view.Slots, enrol.SlotView{Slot: 10, Name: "p10"})
	var got []string
	for _, f := range c.examine(t).Findings {
		got = append(got, f.Where+" "+f.Code)
	}
	if want := "controller unit-failed, p2 node-down, p10 node-silent, cluster alarm, controller backup-missing, p1 node-inactive"; strings.Join(got, ", ") != want {
		t.Errorf("%s, want %s", strings.Join(got, ", "), want)
	}
}

// What cannot be looked at is told.
func TestNothingCanBeLookedAt(t *testing.T) {
	r := doctor.Examine(t.Context(), doctor.Options{Root: t.TempDir(), Node: &nodefile.Node{Docker: true}})
	want := `warning controller address-pool: Docker takes its networks from where it likes, 172.19.0.0/16 among them, where the slots are
unchecked: the controller's own health
unchecked: the controller's units
unchecked: the controller's certificate
unchecked: the slots: there is no service to ask
unchecked: Docker
unchecked: the packet filter
unchecked: the controller's addresses
`
	if got := told(r); got != want {
		t.Errorf("%s", got)
	}
}

// Every code is one of the page's, and every one of the page's is a code.
func TestThePageTellsOfEveryCode(t *testing.T) {
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) != 4 {
			continue
		}
		code := strings.Trim(strings.TrimSpace(cells[1]), "`")
		if code == "code" || strings.HasPrefix(code, "---") {
			continue
		}
		if rows[code] != "" {
			t.Errorf("the page has %s twice", code)
		}
		rows[code] = strings.TrimSpace(cells[0]) + "|" + strings.TrimSpace(cells[2])
		if strings.TrimSpace(cells[3]) == "" {
			t.Errorf("the page says no remedy for %s", code)
		}
	}
	for _, c := range doctor.Codes() {
		if want := c.Means + "|" + string(c.Severity); rows[c.Code] != want {
			t.Errorf("the page has %q for %s, and is to have %q", rows[c.Code], c.Code, want)
		}
		delete(rows, c.Code)
	}
	for code := range rows {
		t.Errorf("the page tells of %s, which is no code", code)
	}
	for _, code := range health.Codes() {
		found := false
		for _, c := range doctor.Codes() {
			found = found || c.Code == code
		}
		if !found {
			t.Errorf("%s is in no catalogue", code)
		}
	}
}

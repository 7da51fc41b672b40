package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/controller"
	"hatchery/controller/backup"
	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/controller/reimage"
	"hatchery/firstboot"
	"hatchery/firstboot/founding"
	"hatchery/firstboot/member"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
	"hatchery/internal/identity"
	"hatchery/internal/netspace"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// Options are what a cluster is to be like.
type Options struct {
	Slots  []int                     // nil: slot 1
	Labels map[int]map[string]string // of a slot, 0 for the controller, as cluster.yaml has them
	Uplink bool                      // see enginetest.Options
	// LAN makes the cluster one in CBRIDGE: the controller's eth0, which has
	// LANMAC, is plugged in there, and systemd-networkd runs on every machine with
	// the files that images have. See [Cluster.Root].
	LAN *netspace.LAN
	// Times, Backups, Founding and Member are shorter than a cluster's where
	// they are left out.
	Times    controller.Times
	Backups  backup.Times
	Founding founding.Waits
	Member   member.Waits
	// Intervals are the agents'; a node's where they are left out.
	Intervals firstboot.Intervals
	// Keep is what outlives the roots of slots, as cluster.yaml has it. It is read by
	// nodes whose card is an [Image].
	Keep []string
	// HAT gives the controller a HAT, whose expander is a file: see [Cluster.Powered].
	HAT bool
	// Power, Operations and Cards are shorter than a cluster's where they are left out.
	Power      power.Limits
	Operations operation.Limits
	Cards      reimage.Times

	among *several // one of several controllers
}

// A Cluster is a lab with everything that a build puts onto the cards.
type Cluster struct {
	*enginetest.Lab
	Store *identity.Store

	t       testing.TB
	options Options
	service *unit
	boots   atomic.Int64

	basePath   string // of what images are built over
	baseDigest digest.Digest

	ctx      context.Context // ends with the test
	restarts sync.WaitGroup  // of machines that start anew by themselves

	mu     sync.Mutex
	ended  bool
	agents map[*enginetest.Machine]*enginetest.Process
	booted map[*enginetest.Machine]string // the boot of each machine, once it has been on
	cards  map[*enginetest.Machine]bool   // those that have a card
}

// Name is the cluster's.
const Name = "homelab"

// New makes a cluster in which nothing runs yet: no engine, no agent, no
// service, and no addresses, which are the agents' to set.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Slots == nil {
		o.Slots = []int{1}
	}
	if o.Times == (controller.Times{}) {
		o.Times = controller.Times{Rotate: 3 * time.Second, Join: time.Minute, Alive: 5 * time.Second, Pending: time.Minute, Settle: 2 * time.Second}
	}
	if o.Backups == (backup.Times{}) {
		o.Backups = backup.Times{Quiet: time.Second, Most: 2 * time.Second, Soon: time.Second, Retry: time.Second, Survey: 5 * time.Second}
	}
	if o.Power == (power.Limits{}) {
		o.Power = power.Limits{Lost: 3 * time.Second, Boot: 5 * time.Second, Stable: 10 * time.Second, OffFor: 500 * time.Millisecond, Poll: 250 * time.Millisecond}
	}
	if o.Operations == (operation.Limits{}) {
		o.Operations = operation.Limits{Look: 200 * time.Millisecond, Steady: 2 * time.Second, Boot: patience, Health: patience, Settle: 30 * time.Second}
	}
	if o.Cards == (reimage.Times{}) {
		o.Cards = reimage.Times{Retry: 500 * time.Millisecond, Rearm: patience}
	}
	lab := enginetest.New(t, enginetest.Options{Slots: o.Slots, Bare: o.among == nil, Restart: true, Uplink: o.Uplink})
	c := &Cluster{Lab: lab, service: &unit{}, t: t, options: o,
		agents: map[*enginetest.Machine]*enginetest.Process{}, booted: map[*enginetest.Machine]string{}, cards: map[*enginetest.Machine]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	c.ctx = ctx
	t.Cleanup(func() {
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
		cancel()
		c.restarts.Wait()
	})
	if o.among != nil {
		c.Store = o.among.plug(c)
	} else if store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), Name); err != nil {
		t.Fatal(err)
	} else {
		c.Store = store
	}
	for _, m := range lab.Machines() {
		id, err := c.Store.Target(m.Name, m.Slot, m.Hostname)
		if err != nil {
			t.Fatal(err)
		}
		c.flash(m, id)
	}
	c.write(lab.Controller, "node.json", c.node(lab.Controller, 1), 0o644)
	if o.among != nil {
		o.among.rules(c)
	} else {
		c.rules()
	}
	if o.LAN != nil {
		c.bridge()
	}
	if o.HAT {
		if err := newExpander(c.expander()); err != nil {
			t.Fatal(err)
		}
	}
	c.service.begin = func() (*enginetest.Process, error) {
		return c.process(context.Background(), lab.Controller, "serve", role{Serve: true})
	}
	lab.Controller.AddUnit(firstboot.ServiceUnit, c.service)
	t.Cleanup(c.service.kill)
	return c
}

// flash lays an identity and a node.json, as a card has them. The engine's
// folders are left as they are.
func (c *Cluster) flash(m *enginetest.Machine, id *identity.Identity) {
	c.t.Helper()
	c.write(m, "identity/key.pem", id.Key, 0o600)
	c.write(m, "identity/certificate.pem", id.Certificate, 0o600)
	c.write(m, "identity/ca.pem", id.CA, 0o600)
	c.write(m, "node.json", c.node(m, id.Generation), 0o644)
}

func (c *Cluster) write(m *enginetest.Machine, name string, content []byte, perm os.FileMode) {
	c.t.Helper()
	path := filepath.Join(m.Etc(), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, perm); err != nil {
		c.t.Fatal(err)
	}
}

// node is a machine's node.json.
func (c *Cluster) node(m *enginetest.Machine, generation int) []byte {
	n := nodefile.Node{
		Cluster: Name, Name: m.Name, Role: nodefile.Worker, Slot: m.Slot, Hostname: m.Hostname, Model: "zero", Root: "card",
		Generation: generation, Network: c.network(), Address: netip.PrefixFrom(m.Addr, clusterctrl.Network.Bits()),
		ControllerAddr: clusterctrl.ControllerAddr(), Epoch: 1763769600, Docker: true, Keep: c.options.Keep,
	}
	if m.Slot == 0 {
		n.Role = nodefile.Controller
		n.Swarm = &nodefile.Swarm{CertExpiry: "8760h", Offline: true, AddressPool: "10.181.0.0/16"}
		n.Netboot = &nodefile.Netboot{Disk: 1 << 30, Quota: 1 << 30}
		if c.options.HAT {
			n.HAT = &nodefile.HAT{Version: "2.6"}
		}
	}
	if c.options.among != nil {
		n.Network, n.Controllers = "cbridge", c.options.among.known(m)
	}
	for _, other := range c.Machines() {
		t := nodefile.Target{Name: other.Name, Slot: other.Slot, Hostname: other.Hostname, Address: other.Addr}
		switch {
		case m.Slot == 0 && other.Slot == 0:
			t.Model, t.Arch, t.Labels = "3", "armv7", c.options.Labels[0]
		case m.Slot == 0:
			t.Model, t.Arch, t.Labels, t.Generation = "zero", "armv6", c.options.Labels[other.Slot], 1
		}
		n.Targets = append(n.Targets, t)
	}
	data, err := n.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// rules lays the controller's packet filter rules, as its image has them.
func (c *Cluster) rules() {
	c.t.Helper()
	m := c.Controller
	entries := c.render(m)
	for _, e := range entries {
		switch e.Path {
		case "/etc/hatchery/firewall.nft":
			c.write(m, "firewall.nft", e.Content, 0o644)
		case "/usr/lib/hatchery/docker-user":
			c.write(m, "docker-user", e.Content, 0o755)
		}
	}
}

// process starts a process of a role in a machine.
func (c *Cluster) process(ctx context.Context, m *enginetest.Machine, name string, r role) (*enginetest.Process, error) {
	r.Etc, r.State, r.Run, r.DockerRoot = m.Etc(), m.State(), m.Run(), m.DockerRoot()
	r.EngineHost, r.Units = m.EngineHost(), m.UnitsSocket()
	r.Firewall, r.DockerUser = filepath.Join(m.Etc(), "firewall.nft"), filepath.Join(m.Etc(), "docker-user")
	r.Socket, r.Networkd = c.Socket(), m.Run()
	if c.options.LAN != nil {
		r.Networkd = filepath.Join(networkdRun(m), "netif")
	}
	r.Times, r.Backups, r.Founding, r.Member = c.options.Times, c.options.Backups, c.options.Founding, c.options.Member
	r.Intervals = c.options.Intervals
	r.Power, r.Operations, r.Cards = c.options.Power, c.options.Operations, c.options.Cards
	if c.options.HAT {
		r.Expander = c.expander()
	}
	c.mu.Lock()
	if c.cards[m] {
		r.Card = place(m)
	}
	c.mu.Unlock()
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := m.Command(ctx, self)
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	return m.Go(name, cmd)
}

// boot is a boot's id, like the kernel's.
func (c *Cluster) boot() string {
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", c.boots.Add(1))
}

// StartAgent boots a machine: its agent runs, which starts the engine.
func (c *Cluster) StartAgent(m *enginetest.Machine) {
	c.t.Helper()
	c.startAgent(m, c.boot())
}

func (c *Cluster) startAgent(m *enginetest.Machine, boot string) {
	c.t.Helper()
	if err := c.bootAgent(m, boot); err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) bootAgent(m *enginetest.Machine, boot string) error {
	c.mu.Lock()
	there := c.agents[m] != nil
	c.mu.Unlock()
	if there {
		return fmt.Errorf("%s has an agent already", m.Name)
	}
	p, err := c.process(context.Background(), m, "agent", role{BootID: boot})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.booted[m], c.agents[m] = boot, p
	return nil
}

// RestartAgent starts a machine's agent again in the same boot, as systemd
// does with one that ended.
func (c *Cluster) RestartAgent(m *enginetest.Machine) {
	c.t.Helper()
	c.mu.Lock()
	boot := c.booted[m]
	c.mu.Unlock()
	c.startAgent(m, boot)
}

// KillAgent kills a machine's agent (-9).
func (c *Cluster) KillAgent(m *enginetest.Machine) {
	c.mu.Lock()
	p := c.agents[m]
	delete(c.agents, m)
	c.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// StartServe starts the controller's service if it does not run. One that ends
// by itself is started again, as systemd does it.
func (c *Cluster) StartServe() {
	c.t.Helper()
	if err := c.service.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// KillServe kills the service (-9), and it stays down.
func (c *Cluster) KillServe() { c.service.kill() }

// AgentPid is the process id of a machine's agent, ServePid that of the
// service; 0 where it does not run.
func (c *Cluster) AgentPid(m *enginetest.Machine) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.agents[m]; p != nil {
		return p.Pid
	}
	return 0
}

// ServePid is the process id of the service, 0 where it does not run.
func (c *Cluster) ServePid() int { return c.service.pid() }

// PowerOff ends everything that runs in a machine, as a power cut does. Its
// links stay as they are.
func (c *Cluster) PowerOff(m *enginetest.Machine) {
	c.KillAgent(m)
	if m.Slot == 0 {
		c.KillServe()
	}
	m.CutPower()
}

// PowerOn boots a machine with whatever is on its card.
func (c *Cluster) PowerOn(m *enginetest.Machine) {
	c.t.Helper()
	if m.Slot == 0 {
		c.StartServe()
	}
	c.StartAgent(m)
}

// Reflash makes a machine, which is off, what it is with its image flashed
// anew: the identity as before, and nothing else.
func (c *Cluster) Reflash(m *enginetest.Machine) {
	c.t.Helper()
	if err := m.Wipe(); err != nil {
		c.t.Fatal(err)
	}
}

// Renew gives a slot the next generation, as `hatchery build --renew` does,
// and flashes it.
func (c *Cluster) Renew(m *enginetest.Machine) {
	c.t.Helper()
	id, err := c.Store.Renew(m.Name, m.Slot, m.Hostname)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Reflash(m)
	c.flash(m, id)
}

// Socket is the service's.
func (c *Cluster) Socket() string { return filepath.Join(c.Controller.Run(), "hatchery.sock") }

// Service is the command line's client of the service.
func (c *Cluster) Service() *controller.Client { return controller.Dial(c.Socket()) }

// AgentState is where a machine's agent stands.
func (c *Cluster) AgentState(m *enginetest.Machine) (*firstboot.State, error) {
	return firstboot.ReadState(m.State())
}

// Table is the swarm's list of nodes, a line each: what the slot's label says,
// host name, state, availability, and the labels.
func Table(nodes []swarm.Node) string {
	var lines []string
	for _, n := range nodes {
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(n.Labels)) {
			if name != "hatchery.slot" {
				labels = append(labels, name+"="+n.Labels[name])
			}
		}
		slot := n.Labels["hatchery.slot"]
		if slot == "" {
			slot = "-"
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s %s", slot, n.Hostname, n.Addr, n.State, n.Availability, strings.Join(labels, " "))))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Settled is what Table shows when the controller and every slot are in
// place, with one entry each. More are a slot's labels beside hatchery's own.
func (c *Cluster) Settled(more map[int]string) string {
	var lines []string
	for _, m := range c.Machines() {
		labels := []string{"hatchery.arch=armv6", "hatchery.model=zero"}
		if m.Slot == 0 {
			labels = []string{"hatchery.arch=armv7", "hatchery.model=3"}
		}
		for name, value := range c.options.Labels[m.Slot] {
			labels = append(labels, name+"="+value)
		}
		if more[m.Slot] != "" {
			labels = append(labels, more[m.Slot])
		}
		slices.Sort(labels)
		lines = append(lines, fmt.Sprintf("%s %s %s ready active %s", m.Name, m.Hostname, m.Addr, strings.Join(labels, " ")))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// patience is how long anything may take on a machine that does much else.
const patience = 3 * time.Minute

// WaitTable waits until the list of nodes looks as wanted, and gives it.
func (c *Cluster) WaitTable(want string) []swarm.Node {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var nodes []swarm.Node
	err := fmt.Errorf("the engine was not asked")
	for ctx.Err() == nil {
		asking, done := context.WithTimeout(ctx, 10*time.Second)
		nodes, err = c.Controller.Engine().Nodes(asking)
		done()
		if err == nil && Table(nodes) == want {
			return nodes
		}
		time.Sleep(100 * time.Millisecond)
	}
	var stands []string
	for _, m := range c.Machines() {
		if state, err := c.AgentState(m); err == nil {
			stands = append(stands, m.Name+": "+state.Line())
		}
	}
	c.t.Fatalf("the list of nodes (%v):\n%s\nwanted:\n%s\nagents:\n%s", err, Table(nodes), want, strings.Join(stands, "\n"))
	return nil
}

// Stands sees that the list of nodes looks as wanted now, and gives it. All that is
// waited for is a heartbeat: a node that misses one, as a busy machine makes it, is
// shown as down until the next.
func (c *Cluster) Stands(want string) []swarm.Node {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	nodes, err := c.Controller.Engine().Nodes(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	table := Table(nodes)
	if table == want {
		return nodes
	}
	heard := slices.Clone(nodes)
	for i := range heard {
		heard[i].State = "ready"
	}
	if Table(heard) != want {
		c.t.Fatalf("the nodes are\n%s\nwant\n%s", table, want)
	}
	c.t.Logf("a heartbeat was missed:\n%s", table)
	again := c.WaitTable(want)
	for i := range again {
		if !slices.ContainsFunc(nodes, func(n swarm.Node) bool { return n.ID == again[i].ID }) {
			c.t.Errorf("%s is another node meanwhile", again[i].Hostname)
		}
	}
	return again
}

// WaitSettled waits until everybody is in place.
func (c *Cluster) WaitSettled() []swarm.Node {
	c.t.Helper()
	return c.WaitTable(c.Settled(nil))
}

// NodeOf gives the entry of a slot in a list in which it has one.
func NodeOf(t testing.TB, nodes []swarm.Node, slot int) swarm.Node {
	t.Helper()
	name := clusterctrl.SlotName(slot)
	for _, n := range nodes {
		if n.Labels["hatchery.slot"] == name {
			return n
		}
	}
	t.Fatalf("%s is not in the list", name)
	return swarm.Node{}
}

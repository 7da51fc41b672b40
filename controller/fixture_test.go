package controller_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// patience is how long a state is waited for that has to come.
const patience = 90 * time.Second

// An engine plays the controller's Docker Engine: a manager and its list of
// nodes, with swarmkit's rules as far as the service can meet them.
type engine struct {
	mu      sync.Mutex
	info    swarm.Info
	tokens  int // rotations so far
	serial  int
	nodes   map[string]*swarm.Node
	changed []chan struct{}
	calls   []string
	// before is asked before every call that changes something, and may fail it.
	before func(call string) error
}

func newEngine() *engine {
	e := &engine{
		info: swarm.Info{State: swarm.Active, NodeID: "manager", Manager: true, ClusterID: "swarm1",
			NodeAddr: netip.MustParseAddr("127.0.1.254")},
		nodes: map[string]*swarm.Node{},
	}
	e.nodes["manager"] = &swarm.Node{ID: "manager", Manager: true, State: "ready", Availability: "active", Hostname: "controller", Addr: e.info.NodeAddr}
	return e
}

func (e *engine) token() string { return fmt.Sprintf("SWMTKN-1-%s-%d", e.info.ClusterID, e.tokens) }

func (e *engine) up() error {
	if e.info.State != swarm.Active {
		return swarm.ErrNotManager
	}
	return nil
}

func (e *engine) change(call string) error {
	e.calls = append(e.calls, call)
	if e.before != nil {
		if err := e.before(call); err != nil {
			return err
		}
	}
	for _, c := range e.changed {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	return e.up()
}

func (e *engine) Info(context.Context) (swarm.Info, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.info, nil
}

func (e *engine) Cluster(context.Context) (swarm.Cluster, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return swarm.Cluster{ID: e.info.ClusterID, WorkerToken: e.token()}, e.up()
}

func (e *engine) RotateWorkerToken(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.change("rotate"); err != nil {
		return err
	}
	e.tokens++
	return nil
}

func (e *engine) Nodes(context.Context) ([]swarm.Node, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []swarm.Node
	for _, n := range e.nodes {
		all = append(all, clone(n))
	}
	return all, e.up()
}

func clone(n *swarm.Node) swarm.Node {
	c := *n
	c.Labels = maps.Clone(n.Labels)
	return c
}

func (e *engine) Node(_ context.Context, id string) (swarm.Node, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nodes[id]
	if n == nil {
		return swarm.Node{}, fmt.Errorf("reading node %s: %w", id, swarm.ErrNotFound)
	}
	return clone(n), nil
}

func (e *engine) UpdateNode(_ context.Context, id string, version uint64, spec swarm.NodeSpec) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.change(fmt.Sprintf("update %s %s", id, spec.Availability)); err != nil {
		return err
	}
	n := e.nodes[id]
	switch {
	case n == nil:
		return fmt.Errorf("changing node %s: %w", id, swarm.ErrNotFound)
	case n.Version != version:
		return fmt.Errorf("changing node %s: %w", id, swarm.ErrConflict)
	}
	n.Labels, n.Availability = maps.Clone(spec.Labels), spec.Availability
	n.Version++
	return nil
}

func (e *engine) RemoveNode(_ context.Context, id string, force bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.change("remove " + id); err != nil {
		return err
	}
	n := e.nodes[id]
	switch {
	case n == nil:
		return fmt.Errorf("removing node %s: %w", id, swarm.ErrNotFound)
	case n.State == "ready" && !force:
		return swarm.ErrNodeUp
	}
	delete(e.nodes, id)
	return nil
}

func (e *engine) Events(ctx context.Context) (<-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := make(chan struct{}, 1)
	e.changed = append(e.changed, c)
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.changed = slices.DeleteFunc(e.changed, func(have chan struct{}) bool { return have == c })
		close(c)
	})
	return c, nil
}

// join is what a node's engine has done when it joins.
func (e *engine) join(token, addr, hostname string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if token != e.token() {
		return "", swarm.ErrBadToken
	}
	e.serial++
	n := &swarm.Node{ID: fmt.Sprintf("node%d", e.serial), Version: 1, Hostname: hostname, Addr: netip.MustParseAddr(addr),
		State: "ready", Availability: "pause", Created: time.Unix(int64(1_800_000_000+e.serial), 0)}
	e.nodes[n.ID] = n
	return n.ID, nil
}

// edit is somebody else's hand on an entry.
func (e *engine) edit(id string, f func(*swarm.Node)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(e.nodes[id])
	e.nodes[id].Version++
}

func (e *engine) with(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// list is the list of nodes but the manager, a line each: availability, state,
// labels.
func (e *engine) list() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, n := range e.nodes {
		if n.Manager {
			continue
		}
		line := fmt.Sprintf("%s %s %s", n.ID, n.Availability, n.State)
		for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
			line += " " + k + "=" + n.Labels[k]
		}
		lines = append(lines, line)
	}
	slices.SortFunc(lines, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A cluster is a cluster with its service, on the loopback's addresses.
type cluster struct {
	t       testing.TB
	store   *identity.Store
	dir     string
	node    *nodefile.Node
	engine  *engine
	options controller.Options
	log     *logged

	mu      sync.Mutex
	port    uint16
	trusted bool
	source  string
	behind  map[netip.Addr]int
	soon    int // backups asked for
	stop    func() error
	done    chan error // how the service ended
}

func address(slot int) netip.Addr {
	if slot == 0 {
		slot = 254
	}
	return netip.AddrFrom4([4]byte{127, 0, 1, byte(slot)})
}

func name(slot int) string {
	if slot == 0 {
		return "controller"
	}
	return fmt.Sprintf("p%d", slot)
}

// newCluster makes a cluster of so many slots; its service does not run yet.
func newCluster(t testing.TB, slots int) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), engine: newEngine(), log: &logged{}, trusted: true, source: "ntp", behind: map[netip.Addr]int{}}
	store, err := identity.Open(filepath.Join(c.dir, "identity"), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	c.store = store
	c.node = nodeFile(slots)
	c.options = controller.Options{
		Node:     c.node,
		Identity: c.identity(0),
		StateDir: filepath.Join(c.dir, "state"),
		Engine:   c.engine,
		Listen:   address(0).String() + ":0",
		Socket:   filepath.Join(c.dir, "run", "s"),
		Clock: func(context.Context) (string, bool, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.source, c.trusted, nil
		},
		Ports: func(_ context.Context, a netip.Addr) (int, bool, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			slot, known := c.behind[a]
			return slot, known, nil
		},
		Log:   slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Times: controller.Times{Rotate: time.Hour, Settle: 100 * time.Millisecond},
	}
	t.Cleanup(func() {
		c.end()
		if strings.Contains(c.log.String(), "SWMTKN") {
			t.Error("a token is in the log")
		}
		if t.Failed() {
			t.Log("the service's log:\n" + c.log.String())
		}
	})
	return c
}

func nodeFile(slots int) *nodefile.Node {
	n := &nodefile.Node{
		Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "hammond", Network: "cnat",
		Address: netip.PrefixFrom(address(0), 24), ControllerAddr: address(0),
		Targets: []nodefile.Target{{Name: "controller", Hostname: "hammond", Address: address(0)}},
	}
	for s := 1; s <= slots; s++ {
		n.Targets = append(n.Targets, nodefile.Target{Name: name(s), Slot: s, Hostname: "host" + name(s), Address: address(s),
			Model: "zero", Arch: "armv6", Labels: map[string]string{"disk": "card"}, Generation: 1})
	}
	return n
}

func (c *cluster) identity(slot int) *enrol.Identity {
	c.t.Helper()
	files, err := c.store.Target(name(slot), slot, "host"+name(slot))
	if err != nil {
		c.t.Fatal(err)
	}
	return c.parsed(files)
}

func (c *cluster) parsed(files *identity.Identity) *enrol.Identity {
	c.t.Helper()
	id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

func (c *cluster) renew(slot int) *enrol.Identity {
	c.t.Helper()
	files, err := c.store.Renew(name(slot), slot, "host"+name(slot))
	if err != nil {
		c.t.Fatal(err)
	}
	return c.parsed(files)
}

// start starts the service, and gives the cluster back.
func (c *cluster) start() *cluster {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan uint16, 1), make(chan error, 1)
	c.done = done
	o := c.options
	o.Ready = func(a net.Addr) { ready <- uint16(a.(*net.TCPAddr).Port) }
	go func() { done <- controller.Serve(ctx, o) }()
	select {
	case c.port = <-ready:
	case err := <-done:
		c.t.Fatal(err)
	case <-time.After(patience):
		c.t.Fatal("the service does not listen")
	}
	c.stop = sync.OnceValue(func() error { cancel(); return <-done })
	return c
}

// end ends the service.
func (c *cluster) end() {
	c.t.Helper()
	if c.stop == nil {
		return
	}
	if err := c.stop(); err != nil {
		c.t.Errorf("the service ended with: %v", err)
	}
	c.stop = nil
}

func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// client calls as a slot, from an address.
func (c *cluster) client(id *enrol.Identity, from netip.Addr) *enrol.Client {
	client := enrol.NewClient(id, address(0), enrol.ClientOptions{Port: c.port, Local: from})
	c.t.Cleanup(client.Reset)
	return client
}

func (c *cluster) view() *enrol.ClusterView {
	c.t.Helper()
	v, err := controller.Dial(c.options.Socket).Cluster(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// alarms are the alarms as "p2 clone".
func (c *cluster) alarms() string {
	c.t.Helper()
	var all []string
	for _, a := range c.view().Alarms {
		all = append(all, fmt.Sprintf("%s %s", name(a.Slot), a.Code))
	}
	return strings.Join(all, ", ")
}

// settled waits for a list of nodes.
func (c *cluster) settled(want string) {
	c.t.Helper()
	eventually(c.t, func() error {
		if have := c.engine.list(); have != want {
			return fmt.Errorf("the list of nodes is\n%s\nand should be\n%s", have, want)
		}
		return nil
	})
}

func eventually(t testing.TB, state func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := state()
		if err == nil {
			return
		}
		if time.Since(began) > patience {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A card is what runs in a slot: an agent with an engine.
type card struct {
	c      *cluster
	slot   int
	id     *enrol.Identity
	boot   string
	seq    int64
	member enrol.SwarmState
	calls  *enrol.Client
	lan    string // its address there, where there are several controllers
}

// card is a fresh card in a slot, booted.
func (c *cluster) card(slot int) *card {
	c.t.Helper()
	k := &card{c: c, slot: slot, id: c.identity(slot), member: enrol.SwarmState{State: "inactive"}}
	k.reboot()
	return k
}

var boots struct {
	sync.Mutex
	n int
}

func (k *card) reboot() {
	boots.Lock()
	defer boots.Unlock()
	boots.n++
	k.boot, k.seq = fmt.Sprintf("boot-%d", boots.n), 0
	k.calls = k.c.client(k.id, address(k.slot))
}

func (k *card) ask() (*enrol.JoinAnswer, error) {
	return k.calls.Join(k.c.t.Context(), enrol.JoinRequest{Slot: &k.slot, BootID: k.boot, AgentVersion: "test", Swarm: k.member})
}

// tell reports, and gives whether it is to ask again.
func (k *card) tell(step string) (rejoin bool, err error) {
	k.seq++
	a, err := k.calls.Status(k.c.t.Context(), enrol.StatusReport{BootID: k.boot, Seq: k.seq, AgentVersion: "test",
		Step: step, State: enrol.StateDone, Since: time.Unix(1, 0), Swarm: k.member})
	if err != nil {
		return false, err
	}
	return a.Rejoin, nil
}

// obey asks what to do and does it.
func (k *card) obey() (enrol.Action, error) {
	a, err := k.ask()
	if err != nil {
		return "", err
	}
	switch a.Action {
	case enrol.LeaveAndJoin, enrol.Join:
		id, err := k.c.engine.join(string(a.JoinToken), cmp.Or(a.AdvertiseAddr, k.lan), "host"+name(k.slot))
		if err != nil {
			return a.Action, err
		}
		k.member = enrol.SwarmState{State: "active", NodeID: id, ClusterID: a.ClusterID}
	}
	return a.Action, nil
}

// up brings a card into the swarm, and gives its node ID.
func (k *card) up() string {
	k.c.t.Helper()
	eventually(k.c.t, func() error {
		if _, err := k.obey(); err != nil {
			return err
		}
		if k.member.State != "active" {
			return errors.New("not active yet")
		}
		rejoin, err := k.tell("steady")
		if rejoin {
			err = errors.New("told to ask again")
		}
		return err
	})
	return k.member.NodeID
}

// down has the swarm notice that a node is gone.
func (k *card) down() {
	k.c.engine.edit(k.member.NodeID, func(n *swarm.Node) { n.State = "down" })
}

// code is the code of a refusal, or the error itself.
func code(err error) string {
	var refused *enrol.Error
	if errors.As(err, &refused) {
		return string(refused.Code)
	}
	return fmt.Sprint(err)
}

type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

package page_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/page"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/nodefile"
)

// A cluster is what the page shows: a view that tests change, events that they
// cause, and what was asked of it.
type cluster struct {
	mu     sync.Mutex
	view   enrol.ClusterView
	broken error
	still  bool // its clock stands still
	asked  []string
	kept   []controller.Event
	events chan controller.Event

	// hold is closed by a test that lets an action end which waits for it.
	hold chan struct{}
}

func newCluster() *cluster {
	now := time.Now().UTC()
	seen := now.Add(-4 * time.Second)
	power := func(v enrol.SlotView) enrol.SlotView {
		v.Power, v.Link, v.LastSeen = "on", "up", &seen
		return v
	}
	return &cluster{
		events: make(chan controller.Event, 16), hold: make(chan struct{}),
		kept: []controller.Event{
			{Time: now.Add(-time.Minute), Slot: 1, Kind: controller.EventJoin, Detail: "p1: told to join"},
			{Time: now.Add(-30 * time.Second), Kind: controller.EventSwarm, Detail: "the swarm is there"},
		},
		view: enrol.ClusterView{
			Cluster: "homelab", Time: now, TimeSource: enrol.TimeNTP, Swarm: enrol.SwarmState{State: "active"},
			Backup: &enrol.BackupView{Taken: now.Add(-3 * time.Hour), Bytes: 1 << 20, Nodes: []string{"p1", "p3"}},
			Slots: []enrol.SlotView{
				power(enrol.SlotView{
					Slot: 1, Name: "p1", Hostname: "oneil", Model: "zero", AgentVersion: "1.4.0", Step: "steady", State: "done",
					NodeState: "ready", Availability: "active",
					Health: &enrol.Health{Kernel: "6.6.51+rpt-rpi-v6", Engine: "20.10.24", System: "Raspbian GNU/Linux 12 (bookworm)", Memory: 427 << 20, Free: 241 << 20, Disk: 14 << 30, DiskFree: 11 << 30},
				}),
				power(enrol.SlotView{
					Slot: 2, Name: "p2", Hostname: "carter", Model: "zero", AgentVersion: "1.4.0", Step: "docker", State: "running", Detail: "Docker starts", Root: "netboot", Boot: "root",
				}),
				power(enrol.SlotView{
					Slot: 3, Name: "p3", Hostname: "jackson", Model: "zero-2-w", Step: "steady", State: "done", NodeState: "ready", Availability: "drain",
					Health:    &enrol.Health{Kernel: "6.6.51+rpt-rpi-v8", Engine: "26.1.5", Findings: []enrol.Finding{{Code: "low-voltage", Detail: "the supply was below 4.63 V", Remedy: "give the HAT a supply of 2.5 A or more"}}},
					Operation: &enrol.OperationView{ID: "1", Kind: "rebuild", Step: "write", Detail: "43 % of 812 MiB", Since: now.Add(-2 * time.Minute)},
				}),
				{Slot: 4, Name: "p4", Hostname: "tealc", Model: "zero", Power: "off", Link: "down", LastError: &enrol.Told{Time: now.Add(-26 * time.Hour), Text: "cannot join: <script>alert(1)</script>"}},
			},
			Workloads: &enrol.WorkloadsView{State: "waiting", Detail: "no Ready node for web_web", Since: now.Add(-3 * time.Minute), Stacks: []enrol.StackView{
				{Name: "traefik", State: "applied"}, {Name: "web", State: "waiting", Detail: "no Ready node for web_web"}, {Name: "old", State: "failed", Detail: "no <image>"},
			}},
			Alarms: []enrol.AlarmEntry{{Time: now.Add(-5 * time.Minute), Slot: 4, Code: enrol.Clone, Detail: "two cards have the identity of p4"}},
		},
	}
}

func (c *cluster) View(context.Context) (*enrol.ClusterView, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.view
	v.Slots, v.Alarms = slices.Clone(v.Slots), slices.Clone(v.Alarms)
	for i, s := range v.Slots {
		if s.Operation != nil {
			now := *s.Operation
			v.Slots[i].Operation = &now
		}
	}
	if !c.still {
		v.Time = time.Now().UTC()
	}
	return &v, c.broken
}

// change changes what the view says of a slot.
func (c *cluster) change(slot int, change func(*enrol.SlotView)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.view.Slots[slot-1])
}

func (c *cluster) Events(ctx context.Context, _ bool, f func(controller.Event) error) error {
	for _, e := range c.kept {
		if err := f(e); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-c.events:
			if err := f(e); err != nil {
				return err
			}
		}
	}
}

// said is what was asked of the cluster.
func (c *cluster) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.asked, ", ")
}

func (c *cluster) ask(what string, slot int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, what+" "+clusterctrl.SlotName(slot))
}

func (c *cluster) actions() map[string]func(context.Context, int) error {
	return map[string]func(context.Context, int) error{
		"on": func(_ context.Context, slot int) error {
			c.ask("on", slot)
			c.change(slot, func(v *enrol.SlotView) { v.Power, v.Boot = "on", "rom" })
			return nil
		},
		"off": func(_ context.Context, slot int) error {
			c.ask("off", slot)
			c.change(slot, func(v *enrol.SlotView) { v.Power, v.Link = "off", "down" })
			return nil
		},
		"cycle": func(_ context.Context, slot int) error {
			c.ask("cycle", slot)
			return errors.New("the HAT does not answer on I2C")
		},
		"rebuild": func(ctx context.Context, slot int) error {
			c.ask("rebuild", slot)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-c.hold:
				return nil
			}
		},
	}
}

func nodeOf(listen string) *nodefile.Node {
	n := &nodefile.Node{
		Cluster: "homelab", Domain: "lan", Name: "controller", Role: nodefile.Controller, Hostname: "hammond", Network: "cnat",
		Address: netip.MustParsePrefix("172.19.181.254/24"), ControllerAddr: netip.MustParseAddr("172.19.181.254"),
		Targets: []nodefile.Target{{Name: "controller", Hostname: "hammond", Address: clusterctrl.ControllerAddr()}},
	}
	if listen != "" {
		n.Serve = &nodefile.Serve{Listen: listen}
	}
	for slot, host := range map[int]string{1: "oneil", 2: "carter", 3: "jackson", 4: "tealc"} {
		n.Targets = append(n.Targets, nodefile.Target{Name: clusterctrl.SlotName(slot), Slot: slot, Hostname: host, Address: clusterctrl.SlotAddr(slot)})
	}
	return n
}

// A served page.
type served struct {
	*page.Service
	plain string // 127.0.0.1:port
	inner string // another address of this machine that is none of loopback's; "" if there is none
	tls   string
	state string // the state folder
	ca    []byte // PEM
}

func (s *served) token(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.state, "page-token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// outer is an IPv4 address of this machine that is not loopback's.
func outer() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			return p.Addr().String()
		}
	}
	return ""
}

// serve serves the page until the test ends.
func serve(t testing.TB, c *cluster, edit func(*page.Options)) *served {
	t.Helper()
	s := &served{state: t.TempDir()}
	identities := t.TempDir()
	made := enroltest.NewCluster(t, "homelab")
	id := made.Files(t, 0)
	shown, err := made.Store.Page(id, []string{"hammond", "hammond.local", "localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	s.ca = id.CA
	for name, data := range map[string][]byte{"page.pem": shown.Certificate, "page-key.pem": shown.Key} {
		if err := os.WriteFile(filepath.Join(identities, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type at struct {
		addr net.Addr
		tls  bool
	}
	listening := make(chan at, 4)
	o := page.Options{
		Node: nodeOf(nodefile.ListenLAN), View: c.View, Events: c.Events, Actions: c.actions(), StateDir: s.state, IdentityDir: identities,
		Listen: []string{"127.0.0.1:0"}, ListenTLS: "127.0.0.1:0",
		Listening: func(addr net.Addr, tls bool) { listening <- at{addr, tls} },
		Times:     page.Times{Poll: 50 * time.Millisecond, Again: 50 * time.Millisecond},
	}
	if own := outer(); own != "" {
		o.Listen = append(o.Listen, net.JoinHostPort(own, "0"))
	}
	if edit != nil {
		edit(&o)
	}
	if s.Service, err = page.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the page ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the page does not end")
		}
	})
	wanted := len(o.Listen)
	if o.Node.Serve != nil {
		wanted++
	}
	for range wanted {
		select {
		case l := <-listening:
			switch {
			case l.tls:
				s.tls = l.addr.String()
			case strings.HasPrefix(l.addr.String(), "127."):
				s.plain = l.addr.String()
			default:
				s.inner = l.addr.String()
			}
		case <-time.After(time.Minute):
			t.Fatal("the page does not listen")
		}
	}
	return s
}

// request makes a request, with headers as name and value in turn.
func request(t testing.TB, client *http.Client, method, url string, headers ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

package api_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/controller"
	"hatchery/controller/api"
	"hatchery/controller/console"
	"hatchery/controller/metrics"
	"hatchery/controller/operation"
	"hatchery/controller/page"
	"hatchery/controller/power"
	"hatchery/controller/preserve"
	"hatchery/controller/reimage"
	"hatchery/controller/workload"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/netboot"
	"hatchery/netboot/nbd"
	"hatchery/netboot/store"
	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbhost"
)

// patience is how long a state is waited for that has to come.
const patience = 4 * time.Minute

// engine plays the controller's Docker Engine: a manager that nobody joins.
type engine struct{}

func (engine) Info(context.Context) (swarm.Info, error) {
	return swarm.Info{State: swarm.Active, NodeID: "manager", Manager: true, ClusterID: "swarm1", NodeAddr: address(0)}, nil
}

func (engine) Cluster(context.Context) (swarm.Cluster, error) {
	return swarm.Cluster{ID: "swarm1", WorkerToken: "SWMTKN-1-a-b"}, nil
}
func (engine) RotateWorkerToken(context.Context) error { return nil }
func (engine) Nodes(context.Context) ([]swarm.Node, error) {
	return []swarm.Node{
		{ID: "manager", Manager: true, State: "ready", Availability: "active", Hostname: "hammond", Addr: address(0)},
		{ID: "node1", State: "ready", Availability: "active", Hostname: "oneil", Addr: address(1), Labels: map[string]string{"disk": "card"}},
	}, nil
}

func (engine) SharedNetworks(context.Context) ([]swarm.SharedNetwork, error) { return nil, nil }
func (engine) RemoveNetwork(context.Context, string) error                   { return nil }
func (engine) Secrets(context.Context) ([]swarm.Object, error)               { return nil, nil }
func (engine) RemoveSecret(context.Context, string) error                    { return nil }
func (engine) Configs(context.Context) ([]swarm.Object, error)               { return nil, nil }
func (engine) RemoveConfig(context.Context, string) error                    { return nil }
func (engine) ServiceEntries(context.Context) ([]swarm.ServiceEntry, error)  { return nil, nil }
func (engine) RemoveService(context.Context, string) error                   { return nil }
func (engine) CreateNetwork(context.Context, string, network.CreateOptions) (string, error) {
	return "network1", nil
}

func (engine) CreateSecret(context.Context, dockerswarm.SecretSpec) (string, error) {
	return "secret1", nil
}

func (engine) CreateConfig(context.Context, dockerswarm.ConfigSpec) (string, error) {
	return "config1", nil
}

func (engine) CreateService(context.Context, dockerswarm.ServiceSpec) (string, error) {
	return "service1", nil
}

func (engine) UpdateService(context.Context, string, uint64, dockerswarm.ServiceSpec) error {
	return nil
}

func (engine) RegistryImage(context.Context, string) (swarm.Image, error) {
	return swarm.Image{}, swarm.ErrNotFound
}

func (engine) LocalImage(context.Context, string) (swarm.Image, error) {
	return swarm.Image{}, swarm.ErrNotFound
}

func (engine) SaveImage(context.Context, string) (io.ReadCloser, error) {
	return nil, swarm.ErrNotFound
}

func (e engine) Node(ctx context.Context, id string) (swarm.Node, error) {
	all, _ := e.Nodes(ctx)
	for _, n := range all {
		if n.ID == id {
			return n, nil
		}
	}
	return swarm.Node{}, swarm.ErrNotFound
}
func (engine) Tasks(context.Context, string) ([]swarm.Task, error)              { return nil, nil }
func (engine) Services(context.Context) ([]swarm.Service, error)                { return nil, nil }
func (engine) UpdateNode(context.Context, string, uint64, swarm.NodeSpec) error { return nil }
func (engine) RemoveNode(context.Context, string, bool) error                   { return nil }

func (engine) Events(ctx context.Context) (<-chan struct{}, error) {
	c := make(chan struct{})
	context.AfterFunc(ctx, func() { close(c) })
	return c, nil
}

// backups are taken, or not.
type backups struct {
	mu     sync.Mutex
	broken bool
}

func (b *backups) Soon() {}
func (b *backups) View() *enrol.BackupView {
	return &enrol.BackupView{Taken: time.Unix(1_800_000_000, 0).UTC(), Bytes: 7, Error: "p3 has no room"}
}

func (b *backups) Write(_ context.Context, w io.Writer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken {
		return errors.New("the swarm is locked")
	}
	_, err := io.WriteString(w, "sealed")
	return err
}

// bus is a USB bus with nothing on it.
type bus struct{}

func (bus) Attend(ctx context.Context, seen func([]usbhost.Device), _ func(context.Context, usbhost.Device)) {
	seen(nil)
	<-ctx.Done()
}
func (bus) Open(usbhost.Device) (usbboot.Transport, error) {
	return nil, errors.New("nothing is there")
}
func (bus) FindWiring(usbhost.Search, []usbhost.Device) (usbhost.Wiring, error) {
	return usbhost.Wiring{}, errors.New("nothing is there")
}
func (bus) Rivals() ([]usbhost.Process, error) { return nil, nil }

// A cluster is the controller's service with all that it serves, on the loopback's
// addresses.
type cluster struct {
	t       *testing.T
	store   *identity.Store
	node    *nodefile.Node
	socket  string
	port    uint16
	backups *backups
	opened  *store.Store
	page    string // its address
	pageTLS string
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

// newCluster starts the service of a cluster of two slots.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	ids, err := identity.Open(filepath.Join(dir, "identity"), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, store: ids, socket: filepath.Join(dir, "s"), backups: &backups{}}
	c.node = &nodefile.Node{
		Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "hammond", Network: "cnat",
		Address: netip.PrefixFrom(address(0), 24), ControllerAddr: address(0),
		Targets: []nodefile.Target{{Name: "controller", Hostname: "hammond", Address: address(0)}},
	}
	for s := 1; s <= 2; s++ {
		c.node.Targets = append(c.node.Targets, nodefile.Target{Name: name(s), Slot: s, Hostname: "host" + name(s), Address: address(s),
			Model: "zero", Arch: "armv6", Generation: 1})
	}
	state, run := filepath.Join(dir, "state"), filepath.Join(dir, "run")
	boots := c.netboot(dir)
	cards, keeper := c.cards(dir), c.keeper(dir)
	calls := cards.Calls()
	for pattern, call := range keeper.NodeCalls() {
		calls[pattern] = call
	}
	o := controller.Options{
		Node: c.node, Identity: c.identity(0), StateDir: state, Engine: engine{}, Listen: address(0).String() + ":0", Socket: c.socket,
		Clock:   func(context.Context) (string, bool, error) { return enrol.TimeNTP, true, nil },
		Backups: c.backups, Log: slog.New(slog.DiscardHandler),
		Beside: func(v *enrol.SlotView) {
			v.Power, v.Link, v.Boot, v.BootInfo = "on", "up", "ready", "since a while"
			v.Operation = &enrol.OperationView{ID: "1", Kind: "rebuild", Step: "drain", Detail: "two tasks", Since: time.Unix(1_800_000_000, 0)}
			v.LastError = &enrol.Told{Time: time.Unix(1_800_000_000, 0), Text: "the link was lost"}
		},
		Local: map[string]http.Handler{
			netboot.Prefix: boots, power.Prefix: c.power(state, run), console.Prefix: c.console(run),
			metrics.Path: c.metrics(), api.Path: api.Calls(), operation.Prefix: c.operations(state), preserve.Prefix: keeper.Calls(), page.Prefix: c.pages(state),
			workload.Prefix: c.workloads(),
		},
		Workloads: func() *enrol.WorkloadsView {
			return &enrol.WorkloadsView{State: "waiting", Detail: "p1", Since: time.Unix(1_800_000_000, 0), Stacks: []enrol.StackView{{Name: "web", State: "waiting", Detail: "p1"}}}
		},
		Bodies: []string{workload.Prefix},
		Calls:  calls,
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan uint16, 1), make(chan error, 1)
	o.Ready = func(a net.Addr) { ready <- uint16(a.(*net.TCPAddr).Port) }
	go func() { done <- controller.Serve(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the service ended with: %v", err)
		}
	})
	select {
	case c.port = <-ready:
	case err := <-done:
		done <- nil
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("the service does not listen")
	}
	return c
}

func (c *cluster) identity(slot int) *enrol.Identity {
	c.t.Helper()
	files, err := c.store.Target(name(slot), slot, "host"+name(slot))
	if err != nil {
		c.t.Fatal(err)
	}
	id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

func (c *cluster) netboot(dir string) http.Handler {
	c.t.Helper()
	kept, err := store.Open(filepath.Join(dir, "netboot"), store.Options{Run: filepath.Join(dir, "netboot-run"), Reserve: -1})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { kept.Close() })
	c.opened = kept
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := netboot.New(c.t.Context(), netboot.Options{
		Node: c.node, Store: kept, Bus: bus{}, Listener: l, Log: slog.New(slog.DiscardHandler),
		NodeInit: func(string) ([]byte, error) { return []byte("a program"), nil },
		Links:    func(ctx context.Context, _ func(netboot.Links)) { <-ctx.Done() },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.run(s.Run)
	return s.Calls()
}

func (c *cluster) power(state, run string) http.Handler {
	c.t.Helper()
	s, err := power.New(power.Options{Node: c.node, StateDir: state, RunDir: run, Log: slog.New(slog.DiscardHandler),
		Links: func() (map[int]bool, error) { return nil, nil }})
	if err != nil {
		c.t.Fatal(err)
	}
	return s.Calls()
}

func (c *cluster) console(run string) http.Handler {
	c.t.Helper()
	s, err := console.New(console.Options{Dir: filepath.Join(run, "console"), Slots: []int{1, 2},
		Device: func(n int) string { return filepath.Join(run, fmt.Sprintf("ttypi%d", n)) }})
	if err != nil {
		c.t.Fatal(err)
	}
	return s.Calls()
}

func (c *cluster) metrics() http.Handler {
	c.t.Helper()
	s, err := metrics.New(metrics.Options{Version: "test", View: controller.Dial(c.socket).Cluster})
	if err != nil {
		c.t.Fatal(err)
	}
	return s.Calls()
}

// A renewer renews nothing: what it is asked for waits until it is cancelled, which it
// can be at any point, so that whoever cancels an operation sees it end.
type renewer struct{}

func (renewer) Kind() string                     { return "card" }
func (renewer) Check(context.Context, int) error { return nil }
func (renewer) Plan(_ context.Context, slot int) (operation.Plan, error) {
	return operation.Plan{Slot: slot, Name: name(slot), Kind: "card", Current: "a", Next: "b", Previous: "c", Bytes: 1, Generation: 2, PreviousGeneration: 1, Discards: []string{"all"}}, nil
}

func (renewer) Renew(ctx context.Context, _ int, _ operation.Tell) error {
	<-ctx.Done()
	return ctx.Err()
}

func (r renewer) Undo(ctx context.Context, slot int, _ string, tell operation.Tell) error {
	return r.Renew(ctx, slot, tell)
}

func (renewer) Cancel(context.Context, int) error { return nil }

func (c *cluster) operations(state string) http.Handler {
	c.t.Helper()
	s, err := operation.New(operation.Options{Node: c.node, StateDir: state, Swarm: engine{}, View: controller.Dial(c.socket).Cluster,
		Renewer: func(operation.Kind, int) (operation.Renewer, error) { return renewer{}, nil }})
	if err != nil {
		c.t.Fatal(err)
	}
	c.run(s.Run)
	return s.Calls()
}

// workloads has a swarm that has nothing, and takes all.
func (c *cluster) workloads() http.Handler {
	c.t.Helper()
	dir := c.t.TempDir()
	s, err := workload.New(workload.Options{Node: c.node, Engine: engine{}, Image: filepath.Join(dir, "image.json"), StateDir: dir,
		SecretsDir: filepath.Join(dir, "secrets"), ConfigsDir: filepath.Join(dir, "configs"), Key: make([]byte, 32)})
	if err != nil {
		c.t.Fatal(err)
	}
	c.run(s.Run)
	return s.Calls()
}

func (c *cluster) cards(dir string) *reimage.Service {
	c.t.Helper()
	s, err := reimage.New(reimage.Options{Node: c.node, Identity: c.identity(0), Store: c.opened, Dir: filepath.Join(dir, "cards")})
	if err != nil {
		c.t.Fatal(err)
	}
	c.run(s.Run)
	return s
}

func (c *cluster) keeper(dir string) *preserve.Keeper {
	c.t.Helper()
	k, err := preserve.New(preserve.Options{Node: c.node, Identity: c.identity(0), Dir: filepath.Join(dir, "kept"), Port: 1}) // where no node listens
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

// pages serves the page on the loopback.
func (c *cluster) pages(state string) http.Handler {
	c.t.Helper()
	view := controller.Dial(c.socket)
	type place struct {
		at  string
		tls bool
	}
	at := make(chan place, 2)
	identities := c.t.TempDir()
	files, err := c.store.Target(name(0), 0, "hostcontroller")
	if err != nil {
		c.t.Fatal(err)
	}
	shown, err := c.store.Page(files, []string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		c.t.Fatal(err)
	}
	for name, data := range map[string][]byte{"page.pem": shown.Certificate, "page-key.pem": shown.Key} {
		if err := os.WriteFile(filepath.Join(identities, name), data, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	node := *c.node
	node.Serve = &nodefile.Serve{Listen: nodefile.ListenLAN}
	s, err := page.New(page.Options{
		Node: &node, View: view.Cluster, Events: view.Events, StateDir: state, IdentityDir: identities, Listen: []string{"127.0.0.1:0"}, ListenTLS: "127.0.0.1:0", Document: api.Calls(), Metrics: c.metrics(),
		Actions:   map[string]func(context.Context, int) error{"on": func(context.Context, int) error { return nil }},
		Listening: func(a net.Addr, tls bool) { at <- place{a.String(), tls} },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.run(s.Run)
	for range 2 {
		select {
		case l := <-at:
			if l.tls {
				c.pageTLS = l.at
			} else {
				c.page = l.at
			}
		case <-time.After(patience):
			c.t.Fatal("the page does not listen")
		}
	}
	return s.Calls()
}

// browser calls the page, with the operator's token where it is needed.
func (c *cluster) browser() caller {
	_, _, answer := ask(c.t, c.local(), "GET", "/page/token", "")
	var token page.TokenAnswer
	if err := json.Unmarshal([]byte(answer), &token); err != nil {
		c.t.Fatal(err)
	}
	t := &http.Transport{DisableKeepAlives: true}
	return func(r *http.Request) (*http.Response, error) {
		r.URL.Scheme, r.URL.Host, r.Host = "http", c.page, c.page
		if r.Method == http.MethodPost && r.Header.Get("Authorization") == "" {
			r.Header.Set("Authorization", "Bearer "+token.Token)
		}
		return t.RoundTrip(r)
	}
}

// run runs a service until the test ends.
func (c *cluster) run(service func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, nbd.ErrShutdown) {
			c.t.Errorf("a service ended with: %v", err)
		}
	})
}

// A caller makes the calls of one door.
type caller func(r *http.Request) (*http.Response, error)

// local calls on the socket.
func (c *cluster) local() caller {
	// There is no TLS on it; that the URLs say https changes nothing.
	t := &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.socket)
	}}
	return t.RoundTrip
}

// slot calls as a slot.
func (c *cluster) slot(n int) caller {
	id := c.identity(n)
	t := &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dial(ctx, id, n)
		},
	}
	return t.RoundTrip
}

// dial opens a connection as a slot.
func (c *cluster) dial(ctx context.Context, id *enrol.Identity, n int) (*tls.Conn, error) {
	raw, err := c.connect(ctx, n)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, enrol.ClientTLS(id, 0))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// connect opens a connection from a slot's address.
func (c *cluster) connect(ctx context.Context, n int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(address(n), 0))}
	return d.DialContext(ctx, "tcp", netip.AddrPortFrom(address(0), c.port).String())
}

// ask makes a call, and gives its answer; 0 where there is none.
func ask(t *testing.T, call caller, method, path, body string) (status int, header http.Header, answer string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://hatchery"+path, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, nil, ""
	}
	if body == "" {
		r.Body = nil
	}
	return read(t, call, r)
}

func read(t *testing.T, call caller, r *http.Request) (status int, header http.Header, answer string) {
	t.Helper()
	a, err := call(r)
	if err != nil {
		t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		return 0, nil, ""
	}
	defer a.Body.Close()
	if a.StatusCode == http.StatusSwitchingProtocols {
		return a.StatusCode, a.Header, ""
	}
	if a.Header.Get("Content-Type") == "text/event-stream" { // it has no end
		begin := make([]byte, len("retry:"))
		_, err := io.ReadFull(a.Body, begin)
		if err != nil || string(begin) != "retry:" {
			t.Errorf("the stream begins with %q, %v", begin, err)
		}
		return a.StatusCode, a.Header, string(begin)
	}
	data, err := io.ReadAll(a.Body)
	if err != nil {
		t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		return 0, nil, ""
	}
	return a.StatusCode, a.Header, string(data)
}

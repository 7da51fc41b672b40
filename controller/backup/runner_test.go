//go:build linux

package backup_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller/backup"
	"hatchery/firstboot/keep"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/swarmbackup"
	"hatchery/internal/swarmbackup/backuptest"
)

// A hat is a controller's side and nodes, each with its own loopback address, all on one
// port.
type hat struct {
	t     *testing.T
	store *identity.Store
	port  uint16

	mu    sync.Mutex
	up    []swarmbackup.Node
	stops map[int]func()
	dirs  map[int]string
}

func newHat(t *testing.T) *hat {
	t.Helper()
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	return &hat{t: t, store: store, stops: make(map[int]func()), dirs: make(map[int]string)}
}

func (h *hat) identity(slot int) *enrol.Identity {
	h.t.Helper()
	name := "controller"
	if slot > 0 {
		name = clusterctrl.SlotName(slot)
	}
	files, err := h.store.Target(name, slot, "host"+name)
	if err != nil {
		h.t.Fatal(err)
	}
	id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// start starts a slot's node, which has what it kept before.
func (h *hat) start(slot int) {
	h.t.Helper()
	addr := netip.AddrFrom4([4]byte{127, 0, 0, byte(100 + slot)})
	listener, err := net.Listen("tcp4", netip.AddrPortFrom(addr, h.port).String())
	if err != nil {
		h.t.Fatal(err)
	}
	h.port = netip.MustParseAddrPort(listener.Addr().String()).Port()
	if h.dirs[slot] == "" {
		h.dirs[slot] = filepath.Join(h.t.TempDir(), "backups")
	}
	store, err := keep.Open(h.dirs[slot])
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	id := h.identity(slot)
	go func() {
		defer close(done)
		_ = keep.Serve(ctx, listener, store, id, slog.New(slog.DiscardHandler))
	}()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	h.t.Cleanup(stop)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stops[slot] = stop
	h.up = append(h.up, swarmbackup.Node{Name: clusterctrl.SlotName(slot), Slot: slot, Addr: addr})
}

// stop stops a slot's node. The controller has not noticed yet.
func (h *hat) stop(slot int) { h.stops[slot]() }

// wipe is a new card for a slot.
func (h *hat) wipe(slot int) {
	h.t.Helper()
	h.stop(slot)
	if err := os.RemoveAll(h.dirs[slot]); err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.up = slices.DeleteFunc(h.up, func(n swarmbackup.Node) bool { return n.Slot == slot })
	h.mu.Unlock()
	h.start(slot)
}

func (h *hat) nodes() []swarmbackup.Node {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.up)
}

func quick() backup.Times {
	return backup.Times{Quiet: 20 * time.Millisecond, Most: 50 * time.Millisecond, Soon: 10 * time.Millisecond, Retry: 50 * time.Millisecond, Survey: 100 * time.Millisecond}
}

func (h *hat) options(f *backuptest.Folder, state string) backup.Options {
	id := h.identity(0)
	return backup.Options{
		Identity: id, DockerRoot: f.DockerRoot, StateDir: state, Dir: filepath.Join(h.t.TempDir(), "backup"),
		Nodes: h.nodes, Times: quick(), Client: &swarmbackup.Client{Identity: id, Port: h.port, Stall: 10 * time.Second},
	}
}

// run runs a runner till the returned function is called.
func run(t *testing.T, o backup.Options) (*backup.Runner, func()) {
	t.Helper()
	r, err := backup.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

// eventually waits for a view.
func eventually(t *testing.T, r *backup.Runner, what string, reached func(v *enrol.BackupView) bool) *enrol.BackupView {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		v := r.View()
		if v != nil && reached(v) {
			return v
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("never: %s; it is %+v", what, v)
		}
	}
}

func on(nodes string) func(v *enrol.BackupView) bool {
	return func(v *enrol.BackupView) bool { return strings.Join(v.Nodes, " ") == nodes }
}

// newest fetches what the nodes have.
func (h *hat) newest(id *enrol.Identity) *swarmbackup.Offer {
	h.t.Helper()
	c := &swarmbackup.Client{Identity: id, Port: h.port}
	offer, _, err := c.Newest(h.t.Context(), h.nodes(), filepath.Join(h.t.TempDir(), "x"))
	if err != nil {
		h.t.Fatal(err)
	}
	return offer
}

func TestBackupsReachTheNodes(t *testing.T) {
	h := newHat(t)
	h.start(1)
	h.start(2)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	changes := make(chan struct{}, 1)
	o := h.options(f, t.TempDir())
	o.Changes = func(context.Context) (<-chan struct{}, error) { return changes, nil }
	r, stop := run(t, o)
	first := eventually(t, r, "both have the first", on("p1 p2"))
	if first.Error != "" || first.Bytes == 0 || first.Taken.IsZero() {
		t.Errorf("%+v", first)
	}
	// A change.
	f.Append(3)
	changes <- struct{}{}
	eventually(t, r, "a new one on both", func(v *enrol.BackupView) bool { return v.Taken.After(first.Taken) && on("p1 p2")(v) })
	if offer := h.newest(o.Identity); offer.Label.Index != f.Index() {
		t.Errorf("the nodes have index %d, want %d", offer.Label.Index, f.Index())
	}
	// A node that comes up gets it without a change.
	h.start(3)
	eventually(t, r, "the third has it too", on("p1 p2 p3"))
	// So does one with a new card.
	h.wipe(2)
	before := r.View().Taken
	for began := time.Now(); len(h.newest(o.Identity).Nodes) < 3; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("the rebuilt node never got it")
		}
	}
	if !r.View().Taken.Equal(before) {
		t.Error("a backup was taken without a change")
	}
	// Soon.
	r.Soon()
	eventually(t, r, "one more", func(v *enrol.BackupView) bool { return v.Taken.After(before) && on("p1 p2 p3")(v) })
	// Nodes that do not answer are told.
	h.stop(1)
	h.stop(2)
	r.Soon()
	// They are given it side by side: one is told before the other.
	v := eventually(t, r, "one node has it, and two are told", func(v *enrol.BackupView) bool {
		return on("p3")(v) && strings.Contains(v.Error, "p1") && strings.Contains(v.Error, "p2")
	})
	if !strings.HasPrefix(v.Error, "1 of 2 nodes have it; ") {
		t.Errorf("%q", v.Error)
	}
	// Started anew, the service knows its newest one.
	stop()
	taken := r.View().Taken
	again, err := backup.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if v := again.View(); v == nil || !v.Taken.Equal(taken) {
		t.Errorf("%+v, want the one of %v", v, taken)
	}
}

func TestNoSwarmYet(t *testing.T) {
	h := newHat(t)
	h.start(1)
	o := h.options(&backuptest.Folder{DockerRoot: t.TempDir()}, "")
	o.Copies = 1
	r, _ := run(t, o)
	time.Sleep(2 * o.Times.Retry)
	if v := r.View(); v != nil {
		t.Errorf("%+v without a swarm", v)
	}
	backuptest.New(t, o.DockerRoot, "swarm", "node")
	if v := eventually(t, r, "a backup of the new swarm", on("p1")); v.Error != "" {
		t.Error(v.Error)
	}
	// A folder that breaks is told, and what was taken is kept.
	if err := os.Remove(filepath.Join(o.DockerRoot, "swarm/certificates/swarm-node.key")); err != nil {
		t.Fatal(err)
	}
	r.Soon()
	if v := eventually(t, r, "an error", func(v *enrol.BackupView) bool { return v.Error != "" }); v.Taken.IsZero() || len(v.Nodes) != 1 {
		t.Errorf("%+v", v)
	}
}

func TestEventsThatEnd(t *testing.T) {
	h := newHat(t)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	o := h.options(f, "")
	asked := make(chan int, 100)
	n := 0
	o.Changes = func(context.Context) (<-chan struct{}, error) {
		n++
		select {
		case asked <- n:
		default: // nobody counts any more
		}
		if n == 1 {
			return nil, errors.New("the engine is not there yet")
		}
		events := make(chan struct{})
		close(events)
		return events, nil
	}
	r, _ := run(t, o)
	first := eventually(t, r, "the first", func(v *enrol.BackupView) bool { return !v.Taken.IsZero() })
	for range 3 {
		<-asked
	}
	// What happened while nobody listened counts as a change.
	eventually(t, r, "another", func(v *enrol.BackupView) bool { return v.Taken.After(first.Taken) })
}

func TestWrite(t *testing.T) {
	h := newHat(t)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	o := h.options(f, "")
	if err := os.MkdirAll(filepath.Join(o.Dir, "pull-left"), 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := backup.New(o)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.Write(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	label, err := swarmbackup.Check(t.Context(), &b, o.Identity)
	if err != nil || label.Index != f.Index() {
		t.Errorf("%+v, %v", label, err)
	}
	if entries, err := os.ReadDir(o.Dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestOptions(t *testing.T) {
	h := newHat(t)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	for i, change := range []func(o *backup.Options){
		func(o *backup.Options) { o.Identity = h.identity(1) },
		func(o *backup.Options) { o.Identity = nil },
		func(o *backup.Options) { o.Nodes = nil },
		func(o *backup.Options) { o.Dir = filepath.Join(o.StateDir, "backup") },
		func(o *backup.Options) { o.Dir = o.StateDir },
	} {
		o := h.options(f, t.TempDir())
		change(&o)
		if _, err := backup.New(o); err == nil {
			t.Error("accepted: " + strconv.Itoa(i))
		}
	}
}

package founding_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/founding"
	"hatchery/firstboot/keep"
	"hatchery/firstboot/member"
	"hatchery/internal/enginetest"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/internal/swarmbackup"
)

// A bench is a controller with a real engine, and a node that is joined by
// hand.
type bench struct {
	*enginetest.Lab
	t        *testing.T
	identity *enrol.Identity // the controller's
	backups  []founding.Backup
	// keeper is the node that keeps backups, as client finds it: its service
	// is the real one, on the machine's own loopback.
	keeper swarmbackup.Node
	client *swarmbackup.Client
}

func newBench(t *testing.T) *bench {
	lab := enginetest.New(t, enginetest.Options{Slots: []int{1}})
	b := &bench{Lab: lab, t: t}
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), "homelab")
	b.must(err)
	open := func(name string, slot int) *enrol.Identity {
		files, err := store.Target(name, slot, name)
		b.must(err)
		id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
		b.must(err)
		return id
	}
	b.identity = open("controller", 0)
	b.keep(open("p1", 1))
	for _, m := range lab.Machines() {
		b.must(m.StartEngine(t.Context()))
	}
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// keep has slot 1 keep backups.
func (b *bench) keep(id *enrol.Identity) {
	b.t.Helper()
	store, err := keep.Open(filepath.Join(b.t.TempDir(), "backups"))
	b.must(err)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	b.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- keep.Serve(ctx, listener, store, id, slog.New(slog.DiscardHandler)) }()
	b.t.Cleanup(func() { cancel(); <-done })
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	b.keeper = swarmbackup.Node{Name: "p1", Slot: 1, Addr: addr.Addr()}
	b.client = &swarmbackup.Client{Identity: b.identity, Port: addr.Port()}
}

// Offers are the backups that the bench was given.
func (b *bench) Offers(_ context.Context, nodes []nodefile.Target) ([]founding.Backup, []int, error) {
	var answered []int
	for _, n := range nodes {
		answered = append(answered, n.Slot)
	}
	return b.backups, answered, nil
}

// A taken backup is a real one, in a file.
type taken struct {
	*bench
	file string
}

func (k *taken) ID() string     { return filepath.Base(k.file) }
func (k *taken) String() string { return "the backup " + k.ID() }

func (k *taken) Restore(ctx context.Context, dockerRoot string, _ bool) error {
	f, err := os.Open(k.file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = swarmbackup.Restore(ctx, f, swarmbackup.Target{Identity: k.identity, DockerRoot: dockerRoot})
	return err
}

// backUp takes a backup while the engine runs, and gives it to the node.
func (b *bench) backUp() {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "backup")
	_, err := swarmbackup.Take(b.t.Context(), file, swarmbackup.Source{Identity: b.identity, DockerRoot: b.Controller.DockerRoot(), State: filepath.Join(b.Controller.State(), "controller")})
	b.must(err)
	id, _, err := swarmbackup.FileID(file)
	b.must(err)
	b.must(b.client.Put(b.t.Context(), b.keeper, id, file))
	b.backups = []founding.Backup{&taken{b, file}}
}

func (b *bench) founding() *founding.Founding {
	c := b.Controller
	return &founding.Founding{
		Engine: c.Engine(), Units: enginetest.DialUnits(c.UnitsSocket()), Backups: b,
		Clock: func(context.Context) (string, bool, error) { return "ntp", true, nil },
		Node:  nodeFile(1), DockerRoot: c.DockerRoot(), StateDir: c.State(),
		Waits: founding.Waits{Poll: 100 * time.Millisecond, Pending: 30 * time.Second},
		Tell:  func(format string, args ...any) { b.t.Logf(format, args...) },
	}
}

// settle reconciles until there is no error, as the agent does.
func (b *bench) settle() founding.Result {
	b.t.Helper()
	return b.settleWith(b.founding())
}

func (b *bench) settleWith(f *founding.Founding) founding.Result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 4*time.Minute)
	defer cancel()
	for {
		result, err := f.Reconcile(ctx)
		if err == nil {
			return result
		}
		b.t.Log("again: ", err)
		select {
		case <-ctx.Done():
			b.t.Fatalf("there is never a swarm: %v", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// populate joins the node and makes a secret, by which the swarm is known.
func (b *bench) populate() {
	b.t.Helper()
	ctx, p1 := b.t.Context(), b.Slot(1)
	cluster, err := b.Controller.Engine().Cluster(ctx)
	b.must(err)
	b.must(p1.Engine().Join(ctx, swarm.JoinOptions{Remotes: []string{b.Controller.Addr.String() + ":2377"}, Token: cluster.WorkerToken, Addr: p1.Addr}))
	file := filepath.Join(b.t.TempDir(), "secret")
	b.must(os.WriteFile(file, []byte("precious"), 0o600))
	if out, err := b.Controller.Docker(ctx, "secret", "create", "precious", file); err != nil {
		b.t.Fatal(err, out)
	}
	b.complete()
}

// gossips waits until the controller's engine takes part in what the overlay
// networks tell each other: one whose manager was started anew without it
// never does again.
func (b *bench) gossips() {
	b.t.Helper()
	for range 600 {
		log, err := os.ReadFile(b.Controller.Log("dockerd"))
		b.must(err)
		if bytes.LastIndex(log, []byte("joined gossip cluster")) > bytes.LastIndex(log, []byte("left gossip cluster")) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.t.Fatal("the controller's overlay networks are lost")
}

// complete checks that both nodes are ready in the controller's list, and the
// secret is there.
func (b *bench) complete() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	for {
		nodes, err := b.Controller.Engine().Nodes(ctx)
		up := slices.DeleteFunc(slices.Clone(nodes), func(n swarm.Node) bool { return n.State != "ready" })
		if err == nil && len(nodes) == 2 && len(up) == 2 {
			break
		}
		select {
		case <-ctx.Done():
			b.t.Fatalf("the nodes are never ready: %+v, %v", nodes, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	if out, err := b.Controller.Docker(ctx, "secret", "ls"); err != nil || !strings.Contains(out, "precious") {
		b.t.Fatalf("the secret is not there: %v\n%s", err, out)
	}
}

// damage overwrites a part of files in the swarm's folder.
func (b *bench) damage(pattern string) {
	b.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.Controller.DockerRoot(), "swarm", pattern))
	b.must(err)
	if len(files) == 0 {
		b.t.Fatal("there is nothing to damage")
	}
	for _, log := range files {
		f, err := os.OpenFile(log, os.O_WRONLY, 0)
		b.must(err)
		_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, 8<<10), 64)
		b.must(err)
		b.must(f.Close())
	}
}

func TestEngineMade(t *testing.T) {
	b := newBench(t)
	result := b.settle()
	if result.How != founding.Made || result.ClusterID == "" {
		t.Fatalf("%+v, want a swarm that was made", result)
	}
	cluster, err := b.Controller.Engine().Cluster(t.Context())
	b.must(err)
	if cluster.CertExpiry != 8760*time.Hour || cluster.Heartbeat != 8*time.Second || len(cluster.AddressPool) != 1 || cluster.AddressPool[0].String() != "10.181.0.0/16" {
		t.Errorf("the swarm is %+v, want it as node.json says", cluster)
	}
	info, err := b.Controller.Engine().Info(t.Context())
	b.must(err)
	if info.NodeAddr != b.Controller.Addr {
		t.Errorf("its address is %s, want %s", info.NodeAddr, b.Controller.Addr)
	}
	b.gossips()
	b.populate()

	t.Run("and kept", func(t *testing.T) {
		if again := b.settle(); again.How != founding.Kept || again.ClusterID != result.ClusterID {
			t.Errorf("%+v, want the swarm as it was", again)
		}
	})
	t.Run("over a crash of the engine", func(t *testing.T) {
		b.Controller.KillEngine()
		b.must(b.Controller.StartEngine(t.Context()))
		if again := b.settle(); again.How != founding.Kept || again.ClusterID != result.ClusterID {
			t.Errorf("%+v, want the swarm as it was", again)
		}
		b.complete()
	})
	t.Run("with other settings", func(t *testing.T) {
		b.must(b.Controller.Engine().Set(t.Context(), swarm.Settings{CertExpiry: 2000 * time.Hour, Heartbeat: 30 * time.Second}))
		b.settle()
		cluster, err := b.Controller.Engine().Cluster(t.Context())
		b.must(err)
		if cluster.CertExpiry != 8760*time.Hour {
			t.Errorf("certificates live for %v", cluster.CertExpiry)
		}
		if cluster.Heartbeat != 8*time.Second {
			t.Errorf("the nodes' hearts beat every %v", cluster.Heartbeat)
		}
	})
}

// The controller's card was flashed anew: it gets the swarm back from what its
// node keeps, over TLS, and the node takes it up again by itself.
func TestEngineRecovered(t *testing.T) {
	b := newBench(t)
	c := b.Controller
	f := b.founding()
	service := filepath.Join(c.State(), "controller")
	f.Backups = &founding.Keepers{Client: b.client, Identity: b.identity, Folder: c.State(), ServiceState: service}
	f.Node.Targets[1].Address = b.keeper.Addr
	first := b.settleWith(f)
	if first.How != founding.Made {
		t.Fatalf("%+v, want a swarm that was made: no node has a backup", first)
	}
	b.populate()
	b.must(os.MkdirAll(service, 0o700))
	b.must(os.WriteFile(filepath.Join(service, "registry.json"), []byte("generations"), 0o600))
	b.backUp()

	b.must(c.Wipe())
	b.must(c.StartEngine(t.Context()))
	// The service of a new card has begun with nothing.
	b.must(os.MkdirAll(service, 0o700))
	b.must(os.WriteFile(filepath.Join(service, "registry.json"), []byte("nothing"), 0o600))
	result := b.settleWith(f)
	if result.How != founding.Recovered || result.ClusterID != first.ClusterID || result.NodeID != first.NodeID || len(result.SetAside) != 0 || !strings.Contains(result.Backup, "p1") {
		t.Errorf("%+v, want %+v back", result, first)
	}
	b.complete()
	if data, err := os.ReadFile(filepath.Join(service, "registry.json")); string(data) != "generations" {
		t.Errorf("the service has %q, %v, want what was in the backup", data, err)
	}
	if again := b.settleWith(f); again.How != founding.Kept {
		t.Errorf("%+v, want it kept", again)
	}
	if rest, err := filepath.Glob(filepath.Join(c.State(), "*"+swarmbackup.Suffix)); len(rest) > 0 || err != nil {
		t.Errorf("left over: %v, %v", rest, err)
	}
}

// The swarm has moved to another address, as one that was made by hand.
func TestEngineAddress(t *testing.T) {
	b := newBench(t)
	out, err := b.Controller.Command(t.Context(), "ip", "address", "add", "172.19.181.253/24", "dev", b.Controller.Link()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	other := b.Controller.Addr.Prev()
	_, err = b.Controller.Engine().Init(t.Context(), swarm.InitOptions{Addr: other})
	b.must(err)
	before, err := b.Controller.Engine().Info(t.Context())
	b.must(err)
	result := b.settle()
	info, err := b.Controller.Engine().Info(t.Context())
	b.must(err)
	b.gossips()
	if before.NodeAddr != other || info.NodeAddr != b.Controller.Addr || result.ClusterID != before.ClusterID {
		t.Errorf("%+v became %+v, want the same swarm at %s", before, info, b.Controller.Addr)
	}
	b.populate()
}

// The state of the swarm is there, the engine's note of it is not.
func TestEngineReopened(t *testing.T) {
	b := newBench(t)
	first := b.settle()
	b.populate()
	c := b.Controller
	b.must(c.StopEngine())
	b.must(os.Remove(filepath.Join(c.DockerRoot(), "swarm/docker-state.json")))
	b.must(c.StartEngine(t.Context()))
	result := b.settle()
	if result.How != founding.Reopened || result.ClusterID != first.ClusterID || len(result.SetAside) != 1 {
		t.Errorf("%+v, want %+v reopened, with a copy", result, first)
	}
	b.complete()
	// The copy is a swarm too: put in the place of the other, it opens.
	b.must(c.StopEngine())
	b.must(os.RemoveAll(filepath.Join(c.DockerRoot(), "swarm")))
	b.must(os.Rename(result.SetAside[0], filepath.Join(c.DockerRoot(), "swarm")))
	b.must(c.StartEngine(t.Context()))
	if again := b.settle(); again.ClusterID != first.ClusterID {
		t.Errorf("%+v, want %+v", again, first)
	}
	b.complete()
}

// The card lost a part of what the swarm is made of.
func TestEngineDamaged(t *testing.T) {
	const log = "raft/wal-v3-encrypted/*.wal"
	for _, tt := range []struct {
		summary string
		damage  string
		backup  bool
		how     string
	}{
		{"the log, with a backup", log, true, founding.Recovered},
		{"the log, without one", log, false, founding.Made},
		{"the list of tasks", "worker/tasks.db", false, founding.Reopened},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			b := newBench(t)
			first := b.settle()
			b.populate()
			if tt.backup {
				b.backUp()
			}
			c := b.Controller
			b.must(c.StopEngine())
			b.damage(tt.damage)
			if err := c.StartEngine(t.Context()); err != nil {
				t.Fatalf("the engine does not start: %v", err)
			}
			info, err := c.Engine().Info(t.Context())
			t.Logf("the engine says %+v, %v", info, err)
			result := b.settle()
			if result.How != tt.how || len(result.SetAside) != 1 || (result.ClusterID == first.ClusterID) != (tt.how != founding.Made) {
				t.Errorf("%+v, want a swarm that was %s, and the damaged one beside", result, tt.how)
			}
			if tt.how != founding.Made {
				b.complete()
			}
		})
	}
}

// A power cut left zeros where the controller's engine notes what it is: it
// does not start at all, and opens its state by force once that is set aside.
func TestEngineTorn(t *testing.T) {
	for _, name := range []string{"docker-state.json", "state.json"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			first := b.settle()
			b.populate()
			c := b.Controller
			c.KillEngine()
			b.must(os.WriteFile(filepath.Join(c.DockerRoot(), "swarm", name), make([]byte, 100), 0o600))
			if err := c.StartEngine(t.Context()); err == nil {
				t.Error("the engine starts with it: nothing needs to be unblocked")
			}
			if _, err := member.Unblock(c.DockerRoot()); err != nil {
				t.Fatal(err)
			}
			b.must(c.StartEngine(t.Context()))
			if result := b.settle(); result.ClusterID != first.ClusterID || result.NodeID != first.NodeID {
				t.Errorf("%+v, want %+v back", result, first)
			}
			b.complete()
		})
	}
}

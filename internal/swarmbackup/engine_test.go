//go:build linux

package swarmbackup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/internal/enginetest"
	"hatchery/internal/swarm"
	"hatchery/internal/swarmbackup"
)

// hotBackups is how many backups TestHotBackups takes and restores.
const hotBackups = 20

// TestHotBackups takes backups of a real engine while services and secrets
// come and go, a label changes as fast as it can, and raft makes snapshots, and
// restores each into a new engine, which must then know what the first one
// knew when the backup was taken.
func TestHotBackups(t *testing.T) {
	lab := enginetest.New(t, enginetest.Options{Slots: []int{1}})
	id := newCluster(t, "homelab").slot(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	swarmOf(ctx, t, lab)
	c := lab.Controller
	docker := func(args ...string) string {
		t.Helper()
		out, err := c.Docker(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	nodeID := strings.TrimSpace(docker("info", "--format", "{{.Swarm.NodeID}}"))
	state := filepath.Join(c.Dir, "serve")
	if err := os.MkdirAll(filepath.Join(state, "slots"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "slots", "p1.json"), []byte(`{"min_generation":7}`), 0o600); err != nil {
		t.Fatal(err)
	}

	// From the default of 10,000 entries nobody would see a snapshot here.
	docker("swarm", "update", "--snapshot-interval", "25", "--max-snapshots", "1")

	// The writers make and remove things all the time, next to those that stay,
	// and count in a label.
	stop := make(chan struct{})
	wrote := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				wrote <- n
				return
			default:
			}
			script := fmt.Sprintf(`head -c 30000 /dev/urandom | docker -H %[1]s secret create passing-%[2]d - &&
				docker -H %[1]s service create --detach --no-resolve-image --replicas 0 --name passing-%[2]d 127.0.0.1:1/none &&
				docker -H %[1]s service rm passing-%[2]d && docker -H %[1]s secret rm passing-%[2]d`, c.EngineHost(), n)
			if out, err := c.Command(ctx, "sh", "-c", script).CombinedOutput(); err != nil && ctx.Err() == nil {
				t.Errorf("the writer: %v: %s", err, out)
				wrote <- n
				return
			}
		}
	}()

	var count atomic.Int64
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for n := int64(1); ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			node, err := c.Engine().Node(ctx, nodeID)
			if err == nil {
				err = c.Engine().UpdateNode(ctx, nodeID, node.Version, swarm.NodeSpec{Availability: node.Availability, Labels: map[string]string{"count": strconv.FormatInt(n, 10)}})
			}
			if err != nil && !errors.Is(err, swarm.ErrConflict) {
				t.Errorf("the counter: %v", err)
				return
			}
			if err == nil {
				count.Store(n)
			}
		}
	}()

	type backup struct {
		place    string
		services []string
		from, to int64 // where the counter stood before and after
	}
	var backups []backup
	var services []string
	var sizes []string
	for i := range hotBackups {
		name := fmt.Sprintf("stays-%02d", i)
		docker("service", "create", "--detach", "--no-resolve-image", "--replicas", "0", "--name", name, "127.0.0.1:1/none")
		services = append(services, name)
		place := filepath.Join(c.Dir, name+swarmbackup.Suffix)
		began, from := time.Now(), count.Load()
		label, err := swarmbackup.Take(ctx, place, swarmbackup.Source{Identity: id, DockerRoot: c.DockerRoot(), State: state})
		if err != nil {
			t.Fatal(err)
		}
		// One count may be in the log already, but not here.
		took, to := time.Since(began), count.Load()+1
		info, err := os.Stat(place)
		if err != nil {
			t.Fatal(err)
		}
		if label.NodeID != nodeID || label.Cluster != "homelab" || label.Term == 0 || label.Index == 0 {
			t.Fatalf("label %+v", label)
		}
		sizes = append(sizes, fmt.Sprintf("index %d: %d kB raw, %d kB sealed, %v", label.Index, label.Raw>>10, info.Size()>>10, took.Round(time.Millisecond)))
		backups = append(backups, backup{place, slices.Clone(services), from, to})
	}
	close(stop)
	<-counted
	if n := <-wrote; n < 3 {
		t.Errorf("the writer wrote %d times only: these were hardly backups during writes", n)
	} else {
		t.Logf("%d rounds of the writer", n)
	}
	for _, s := range sizes {
		t.Log(s)
	}
	snapshots, err := filepath.Glob(filepath.Join(c.DockerRoot(), "swarm/raft/snap-v3-encrypted/*.snap"))
	if err != nil || len(snapshots) == 0 {
		t.Errorf("raft made no snapshots: %v", err)
	}
	t.Logf("the counter came to %d; snapshots %q", count.Load(), snapshots)

	// The controller gets a new card each time.
	for i, b := range backups {
		if err := c.Wipe(); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(b.place)
		if err != nil {
			t.Fatal(err)
		}
		restored := filepath.Join(c.State(), "controller")
		_, err = swarmbackup.Restore(ctx, f, swarmbackup.Target{Identity: id, DockerRoot: c.DockerRoot(), State: restored})
		f.Close()
		if err != nil {
			t.Fatalf("backup %d: %v", i, err)
		}
		if err := c.StartEngine(ctx); err != nil {
			t.Fatalf("backup %d: %v", i, err)
		}
		if _, err := c.Engine().Init(ctx, swarm.InitOptions{Addr: c.Addr, ForceNewCluster: true}); err != nil {
			t.Fatalf("backup %d: %v", i, err)
		}
		nodes, err := c.Engine().Nodes(ctx)
		at := slices.IndexFunc(nodes, func(n swarm.Node) bool { return n.ID == nodeID && n.Manager })
		if err != nil || len(nodes) != 2 || at < 0 {
			t.Fatalf("backup %d: nodes %+v, %v, want the same two", i, nodes, err)
		}
		if n, err := strconv.ParseInt(nodes[at].Labels["count"], 10, 64); err != nil && b.from > 0 || n < b.from || n > b.to {
			t.Errorf("backup %d: the counter is at %d, %v; it was between %d and %d", i, n, err, b.from, b.to)
		}
		var got []string
		for _, name := range strings.Fields(docker("service", "ls", "--format", "{{.Name}}")) {
			if strings.HasPrefix(name, "stays-") {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, b.services) {
			t.Errorf("backup %d: services %q, want %q", i, got, b.services)
		}
		if data, err := os.ReadFile(filepath.Join(restored, "slots", "p1.json")); err != nil || string(data) != `{"min_generation":7}` {
			t.Errorf("backup %d: the service's state: %q, %v", i, data, err)
		}
	}

	// The worker finds the swarm again by itself, and the log goes on from
	// what was restored: also after a power cut.
	ready := func() {
		t.Helper()
		for ctx.Err() == nil {
			nodes, err := c.Engine().Nodes(ctx)
			if err == nil && len(nodes) == 2 && nodes[0].State == "ready" && nodes[1].State == "ready" {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatal("the worker never became ready again")
	}
	ready()
	docker("service", "create", "--detach", "--no-resolve-image", "--replicas", "0", "--name", "later", "127.0.0.1:1/none")
	c.KillEngine()
	if err := c.StartEngine(ctx); err != nil {
		t.Fatal(err)
	}
	ready()
	if names := strings.Fields(docker("service", "ls", "--format", "{{.Name}}")); !slices.Contains(names, "later") || !slices.Contains(names, "stays-00") {
		t.Errorf("after a power cut: %q", names)
	}
}

// swarmOf makes a swarm of the controller and the slots of a lab.
func swarmOf(ctx context.Context, t *testing.T, lab *enginetest.Lab) {
	t.Helper()
	for _, m := range lab.Machines() {
		if err := m.StartEngine(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c := lab.Controller
	if _, err := c.Engine().Init(ctx, swarm.InitOptions{Addr: c.Addr}); err != nil {
		t.Fatal(err)
	}
	cluster, err := c.Engine().Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range lab.Slots() {
		err := m.Engine().Join(ctx, swarm.JoinOptions{Remotes: []string{c.Addr.String() + ":2377"}, Token: cluster.WorkerToken, Addr: m.Addr})
		if err != nil {
			t.Fatal(err)
		}
	}
}

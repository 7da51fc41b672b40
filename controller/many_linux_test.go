package controller_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/netspace"
)

func TestMain(m *testing.M) {
	netspace.Main(m, netspace.Helpers{"serve": serveAlone, "cards": cardsAtOnce, "comers": comeAndGo})
}

// serveAlone is a service in a process of its own, with the plan's addresses
// and 252 slots. Its engine is joined on a socket. The folder is given.
func serveAlone(ctx context.Context, args []string) error {
	dir := args[0]
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	node := nodeFile(clusterctrl.MaxSlot)
	node.ControllerAddr = clusterctrl.ControllerAddr()
	node.Address = netip.PrefixFrom(node.ControllerAddr, 24)
	for i, t := range node.Targets {
		node.Targets[i].Address = clusterctrl.SlotAddr(t.Slot)
		if t.Slot == 0 {
			node.Targets[i].Address = node.ControllerAddr
		}
	}
	id, err := enrol.LoadIdentity(filepath.Join(dir, "p0"))
	if err != nil {
		return err
	}
	e := newEngine()
	l, err := net.Listen("unix", filepath.Join(dir, "engine"))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /join", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		node, err := e.join(q.Get("token"), q.Get("addr"), "host")
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, node)
	})
	mux.HandleFunc("POST /leave", func(w http.ResponseWriter, r *http.Request) {
		e.with(func() {
			if n := e.nodes[r.URL.Query().Get("node")]; n != nil {
				n.State = "down"
			}
			e.calls = nil // this engine's own would be a leak
		})
	})
	mux.HandleFunc("GET /sample", func(w http.ResponseWriter, r *http.Request) { enrol.WriteJSON(w, http.StatusOK, sampleSelf()) })
	mux.HandleFunc("GET /list", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, e.list()) })
	go http.Serve(l, mux)
	return controller.Serve(ctx, controller.Options{
		Node: node, Identity: id, StateDir: filepath.Join(dir, "state"), Engine: e, Socket: filepath.Join(dir, "s"),
		Clock: func(context.Context) (string, bool, error) { return "ntp", true, nil },
		Log:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Ready: func(net.Addr) { fmt.Println("ready") },
	})
}

// cardsAtOnce are the agents of all slots, which begin at the same moment and
// end when they are members. It prints how long that took.
func cardsAtOnce(ctx context.Context, args []string) error {
	dir := args[0]
	engine := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "engine"))
	}}}
	ids := make([]*enrol.Identity, clusterctrl.MaxSlot+1)
	for slot := 1; slot <= clusterctrl.MaxSlot; slot++ {
		id, err := enrol.LoadIdentity(filepath.Join(dir, fmt.Sprintf("p%d", slot)))
		if err != nil {
			return err
		}
		ids[slot] = id
	}
	began := time.Now()
	errs := make(chan error, len(ids))
	var wg sync.WaitGroup
	for slot := 1; slot < len(ids); slot++ {
		wg.Go(func() {
			client := enrol.NewClient(ids[slot], clusterctrl.ControllerAddr(), enrol.ClientOptions{Local: clusterctrl.SlotAddr(slot)})
			errs <- joinOnce(ctx, engine, client, slot)
		})
	}
	wg.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	fmt.Println(time.Since(began))
	return all
}

func joinOnce(ctx context.Context, engine *http.Client, client *enrol.Client, slot int) error {
	if _, err := client.Time(ctx); err != nil {
		return err
	}
	member := enrol.SwarmState{State: "inactive"}
	boot := fmt.Sprintf("boot-%d", slot)
	var answer *enrol.JoinAnswer
	for seq, step := range []string{"link", "clock", "docker", "enrol"} {
		if _, err := client.Status(ctx, enrol.StatusReport{BootID: boot, Seq: int64(seq), Step: step, Swarm: member}); err != nil {
			return err
		}
	}
	answer, err := client.Join(ctx, enrol.JoinRequest{BootID: boot, Swarm: member})
	if err != nil {
		return err
	}
	r, err := engine.Post(fmt.Sprintf("http://engine/join?token=%s&addr=%s", string(answer.JoinToken), answer.AdvertiseAddr), "", nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	var node [32]byte
	n, _ := r.Body.Read(node[:])
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("slot %d: %s", slot, node[:n])
	}
	member = enrol.SwarmState{State: "active", NodeID: string(node[:n]), ClusterID: answer.ClusterID}
	a, err := client.Status(ctx, enrol.StatusReport{BootID: boot, Seq: 9, Step: "steady", Swarm: member})
	if err == nil && a.Rejoin {
		err = fmt.Errorf("slot %d is told to join again", slot)
	}
	return err
}

// memoryLimit is what the service may take, in bytes.
var memoryLimit int64 = 64 << 20

// manySlots starts a service with 252 slots in a process of its own, and gives the folder
// with everybody's identity.
func manySlots(t *testing.T) (dir string, space *netspace.Space, service *netspace.Process) {
	t.Helper()
	netspace.Need(t)
	dir = t.TempDir()
	store, err := identity.Open(filepath.Join(dir, "identity"), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	space = netspace.New(t)
	var batch strings.Builder
	for slot := 0; slot <= clusterctrl.MaxSlot; slot++ {
		files, err := store.Target(name(slot), slot, "host"+name(slot))
		if err != nil {
			t.Fatal(err)
		}
		to, address := filepath.Join(dir, fmt.Sprintf("p%d", slot)), clusterctrl.ControllerAddr()
		if slot > 0 {
			address = clusterctrl.SlotAddr(slot)
		}
		fmt.Fprintf(&batch, "address add %s/32 dev lo\n", address)
		if err := os.Mkdir(to, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"key.pem": files.Key, "certificate.pem": files.Certificate, "ca.pem": files.CA} {
			if err := os.WriteFile(filepath.Join(to, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	addresses := filepath.Join(dir, "addresses")
	if err := os.WriteFile(addresses, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	space.IP("-batch " + addresses)

	service = space.Start(func(ctx context.Context) *exec.Cmd { return space.Self(ctx, "serve", dir) })
	netspace.Eventually(t, "the service listens", func() error {
		if !strings.Contains(service.Printed(), "ready\n") {
			return errors.New("not yet")
		}
		return nil
	})
	return dir, space, service
}

// All 252 slots join at once: a real service in a process of its own, with TLS
// from 252 addresses; only the engine is played.
func TestAllSlotsAtOnce(t *testing.T) {
	dir, space, service := manySlots(t)
	idle := peakMemory(t, service.Pid())
	took := space.Output(space.Self(t.Context(), "cards", dir))

	client := controller.Dial(filepath.Join(dir, "s"))
	began := time.Now()
	netspace.Eventually(t, "252 nodes are active", func() error {
		v, err := client.Cluster(t.Context())
		if err != nil {
			return err
		}
		n := 0
		for _, s := range v.Slots {
			if s.Availability == "active" && s.NodeState == "ready" && s.Labels["hatchery.slot"] == s.Name && s.NodeID != "" {
				n++
			}
		}
		if n != clusterctrl.MaxSlot || len(v.Alarms) > 0 {
			return fmt.Errorf("%d of %d are, and there are the alarms %v", n, clusterctrl.MaxSlot, v.Alarms)
		}
		return nil
	})
	peak := peakMemory(t, service.Pid())
	t.Logf("252 slots joined in %s, the last was active %v later; the service had %d MB at rest, %d MB at most", took, time.Since(began).Round(time.Millisecond), idle>>20, peak>>20)
	if peak > memoryLimit {
		t.Errorf("the service took %d MB, more than %d", peak>>20, memoryLimit>>20)
	}
	data, err := os.ReadFile(filepath.Join(dir, "state", "registry.json"))
	if err != nil || !json.Valid(data) {
		t.Errorf("the registry is %d bytes of no JSON, %v", len(data), err)
	}
}

var peakLine = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peakMemory is how much memory a process had resident at most, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := peakLine.FindSubmatch(data)
	if found == nil {
		t.Fatalf("no VmHWM in\n%s", data)
	}
	kb, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

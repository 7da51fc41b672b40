package member_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hatchery/firstboot/member"
	"hatchery/internal/enginetest"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// A word is what a controller says, by what its engine's list has: the least
// that the enrolment service does.
type word struct {
	engine *swarm.Engine

	mu     sync.Mutex
	tokens []string // handed out before the right one
	asked  []enrol.SwarmState
}

func (w *word) Join(ctx context.Context, r enrol.JoinRequest) (*enrol.JoinAnswer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, r.Swarm)
	cluster, err := w.engine.Cluster(ctx)
	if err != nil {
		return nil, &enrol.Error{Status: 503, Code: enrol.SwarmNotReady, Detail: err.Error()}
	}
	a := &enrol.JoinAnswer{Action: enrol.Join, ClusterID: cluster.ID, JoinToken: enrol.Secret(cluster.WorkerToken),
		RemoteAddrs: []string{"172.19.181.254:2377"}, Availability: "pause"}
	if len(w.tokens) > 0 {
		a.JoinToken, w.tokens = enrol.Secret(w.tokens[0]), w.tokens[1:]
	}
	if r.Swarm.State == "inactive" {
		return a, nil
	}
	if r.Swarm.NodeID != "" {
		_, err := w.engine.Node(ctx, r.Swarm.NodeID)
		if err == nil && r.Swarm.ClusterID == cluster.ID {
			a.Action, a.JoinToken = enrol.Stay, ""
			return a, nil
		}
		if err != nil && !errors.Is(err, swarm.ErrNotFound) {
			return nil, err
		}
		a.Action = enrol.LeaveAndJoin
		return a, nil
	}
	return a, nil
}

// A bench is a lab with a swarm on its controller, and a member on each slot.
type bench struct {
	*enginetest.Lab
	t    *testing.T
	word *word
}

func newBench(t *testing.T, slots ...int) *bench {
	lab := enginetest.New(t, enginetest.Options{Slots: slots})
	b := &bench{Lab: lab, t: t, word: &word{engine: lab.Controller.Engine()}}
	for _, m := range lab.Machines() {
		b.must(m.StartEngine(t.Context()))
	}
	b.found()
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) found() {
	b.t.Helper()
	_, err := b.Controller.Engine().Init(b.t.Context(), swarm.InitOptions{Addr: b.Controller.Addr})
	b.must(err)
}

func (b *bench) member(slot int) *member.Member {
	m := b.Slot(slot)
	return &member.Member{
		Engine: m.Engine(), Controller: b.word, Units: enginetest.DialUnits(m.UnitsSocket()),
		DockerRoot: m.DockerRoot(), Addr: m.Addr, ControllerAddr: b.Controller.Addr, Slot: slot,
		BootID: "boot", AgentVersion: "1",
		Waits: member.Waits{Poll: 100 * time.Millisecond},
		Tell:  func(format string, args ...any) { b.t.Logf("p%d: "+format, append([]any{slot}, args...)...) },
	}
}

// settle reconciles until there is no error, as the agent does.
func (b *bench) settle(m *member.Member) member.Result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 3*time.Minute)
	defer cancel()
	for {
		result, err := m.Reconcile(ctx)
		if err == nil {
			return result
		}
		b.t.Log("again: ", err)
		select {
		case <-ctx.Done():
			b.t.Fatalf("never a member: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ready waits until the manager's list says that a node is.
func (b *bench) ready(nodeID string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	for {
		n, err := b.Controller.Engine().Node(ctx, nodeID)
		if err == nil && n.State == "ready" {
			return
		}
		select {
		case <-ctx.Done():
			b.t.Fatalf("node %s is never ready: %+v, %v", nodeID, n, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// entries is how many nodes the manager's list has.
func (b *bench) entries() int {
	b.t.Helper()
	nodes, err := b.Controller.Engine().Nodes(b.t.Context())
	b.must(err)
	return len(nodes)
}

func TestEngineJoins(t *testing.T) {
	b := newBench(t, 1)
	m := b.member(1)
	first := b.settle(m)
	if !first.Joined || first.Left || first.Swarm.NodeID == "" || first.Swarm.ClusterID == "" {
		t.Fatalf("%+v, want a node that joined", first)
	}
	b.ready(first.Swarm.NodeID)
	n, err := b.Controller.Engine().Node(t.Context(), first.Swarm.NodeID)
	b.must(err)
	if n.Availability != "pause" || n.Addr != b.Slot(1).Addr {
		t.Errorf("the node's entry is %+v, want one that pauses, at %s", n, b.Slot(1).Addr)
	}

	t.Run("and stays", func(t *testing.T) {
		again := b.settle(m)
		if again.Joined || again.Left || again.Swarm.NodeID != first.Swarm.NodeID || b.entries() != 2 {
			t.Errorf("%+v and %d entries, want the same node as before", again, b.entries())
		}
	})
	t.Run("over a crash of the engine", func(t *testing.T) {
		b.Slot(1).KillEngine()
		b.must(b.Slot(1).StartEngine(t.Context()))
		again := b.settle(b.member(1))
		if again.Joined || again.Swarm.NodeID != first.Swarm.NodeID {
			t.Errorf("%+v, want the same node as before", again)
		}
		b.ready(first.Swarm.NodeID)
	})
	t.Run("until it is removed", func(t *testing.T) {
		b.must(b.Controller.Engine().RemoveNode(t.Context(), first.Swarm.NodeID, true))
		again := b.settle(m)
		if !again.Left || !again.Joined || again.Swarm.NodeID == first.Swarm.NodeID {
			t.Errorf("%+v, want another node than before", again)
		}
		b.ready(again.Swarm.NodeID)
		if b.entries() != 2 {
			t.Errorf("%d entries, want 2", b.entries())
		}
	})
	t.Run("or its card is flashed anew", func(t *testing.T) {
		b.must(b.Slot(1).Wipe())
		b.must(b.Slot(1).StartEngine(t.Context()))
		again := b.settle(b.member(1))
		if again.Left || !again.Joined {
			t.Errorf("%+v, want a node that joined", again)
		}
		b.ready(again.Swarm.NodeID)
	})
}

func TestEngineTokens(t *testing.T) {
	b := newBench(t, 1)
	ctx := t.Context()
	engine := b.Controller.Engine()
	before, err := engine.Cluster(ctx)
	b.must(err)
	b.must(engine.RotateWorkerToken(ctx))
	// A rotated token, and one of a swarm with another CA.
	other := []byte(before.WorkerToken)
	other[len("SWMTKN-1-")+20] ^= 1
	b.word.tokens = []string{before.WorkerToken, string(other)}
	result := b.settle(b.member(1))
	if !result.Joined {
		t.Fatalf("%+v, want a node that joined", result)
	}
	if len(b.word.asked) != 3 {
		t.Errorf("asked %d times, want three: %+v", len(b.word.asked), b.word.asked)
	}
	b.ready(result.Swarm.NodeID)
}

// The controller was flashed anew and nobody had a backup: same addresses, a
// new swarm. The engine of a node goes on as if nothing were, or hangs in
// pending once it was restarted.
func TestEngineNewSwarm(t *testing.T) {
	b := newBench(t, 1, 2)
	ids := make(map[int]string)
	for _, slot := range []int{1, 2} {
		ids[slot] = b.settle(b.member(slot)).Swarm.NodeID
	}
	b.must(b.Controller.Wipe())
	b.must(b.Controller.StartEngine(t.Context()))
	b.found()
	b.Slot(2).KillEngine()
	b.must(b.Slot(2).StartEngine(t.Context()))
	for _, slot := range []int{1, 2} {
		result := b.settle(b.member(slot))
		if !result.Left || !result.Joined || result.Swarm.NodeID == ids[slot] {
			t.Errorf("p%d: %+v, want a node that left and joined", slot, result)
		}
		b.ready(result.Swarm.NodeID)
	}
	if b.entries() != 3 {
		t.Errorf("%d entries, want 3", b.entries())
	}
}

// The manager's port does not answer for longer than the engine's own 20 s, so
// that the join goes on in the background.
func TestEngineSlowJoin(t *testing.T) {
	b := newBench(t, 1)
	rule := func(do string) {
		t.Helper()
		out, err := b.Controller.Command(t.Context(), "iptables", do, "INPUT", "-p", "tcp", "--dport", "2377", "-j", "DROP").CombinedOutput()
		if err != nil {
			t.Fatalf("iptables %s: %v\n%s", do, err, out)
		}
	}
	rule("-I")
	m := b.member(1)
	dropped := make(chan struct{})
	var once sync.Once
	tell := m.Tell
	m.Tell = func(format string, args ...any) {
		tell(format, args...)
		if format == "%s (%d s)" { // it waits for a join in the background
			once.Do(func() { close(dropped) })
		}
	}
	go func() {
		<-dropped
		out, err := b.Controller.Command(context.Background(), "iptables", "-D", "INPUT", "-p", "tcp", "--dport", "2377", "-j", "DROP").CombinedOutput()
		if err != nil {
			t.Errorf("iptables -D: %v\n%s", err, out)
		}
	}()
	result := b.settle(m)
	once.Do(func() { t.Error("no join went on in the background"); close(dropped) })
	b.ready(result.Swarm.NodeID)
	if b.entries() != 2 {
		t.Errorf("%d entries, want 2", b.entries())
	}
}

// A join that cannot come through is given up, and the engine is as it was.
func TestEngineJoinGivenUp(t *testing.T) {
	b := newBench(t, 1)
	m := b.member(1)
	m.Waits.Pending = 2 * time.Second
	out, err := b.Controller.Command(t.Context(), "iptables", "-I", "INPUT", "-p", "tcp", "--dport", "2377", "-j", "DROP").CombinedOutput()
	if err != nil {
		t.Fatalf("iptables: %v\n%s", err, out)
	}
	m.Dial = func(context.Context, string) error { return errors.New("i/o timeout") } // from within the namespace it would be
	result, err := m.Reconcile(t.Context())
	if err == nil {
		t.Fatalf("%+v without an error", result)
	}
	t.Log(err)
	info, err := b.Slot(1).Engine().Info(t.Context())
	b.must(err)
	if info.State != swarm.Inactive {
		t.Errorf("the engine is %s, want it to have given up", info.State)
	}
}

// A card that was in a drawer for longer than its swarm certificate is valid.
func TestEngineExpired(t *testing.T) {
	b := newBench(t, 1)
	first := b.settle(b.member(1))
	p1 := b.Slot(1)
	b.must(p1.StopEngine())
	writeCertificate(t, p1.DockerRoot(), first.Swarm.NodeID, first.Swarm.ClusterID, time.Now().AddDate(-1, 0, 0), time.Now().AddDate(0, -9, 0))
	b.must(p1.StartEngine(t.Context()))
	info, err := p1.Engine().Info(t.Context())
	b.must(err)
	if info.State != swarm.Failed || !errors.Is(info.Err(), swarm.ErrCertificateTime) {
		t.Errorf("the engine is %s, %q, want an error that tells of the certificate's dates", info.State, info.Error)
	}
	m := b.member(1)
	synced := 0
	m.SyncClock = func(context.Context) error { synced++; return nil }
	result := b.settle(m)
	if !result.Left || !result.Joined || result.Swarm.NodeID == first.Swarm.NodeID || synced == 0 {
		t.Errorf("%+v with the clock set %d times, want it set first, and another node than before", result, synced)
	}
	b.ready(result.Swarm.NodeID)
}

// The clock was set back by years, as on a Zero that starts: the certificate
// is not yet valid for the engine, and good once the clock is right.
func TestEngineTooSoon(t *testing.T) {
	b := newBench(t, 1)
	first := b.settle(b.member(1))
	p1 := b.Slot(1)
	b.must(p1.StopEngine())
	dir := filepath.Join(p1.DockerRoot(), "swarm/certificates")
	kept := filepath.Join(p1.Dir, "certificates")
	b.must(os.Rename(dir, kept))
	writeCertificate(t, p1.DockerRoot(), first.Swarm.NodeID, first.Swarm.ClusterID, time.Now().AddDate(1, 0, 0), time.Now().AddDate(2, 0, 0))
	b.must(p1.StartEngine(t.Context()))
	info, err := p1.Engine().Info(t.Context())
	b.must(err)
	if info.State != swarm.Failed || !errors.Is(info.Err(), swarm.ErrCertificateTime) {
		t.Errorf("the engine is %s, %q, want an error that tells of the certificate's dates", info.State, info.Error)
	}
	m := b.member(1)
	m.SyncClock = func(context.Context) error {
		// What the right clock makes of it: a certificate that is valid.
		return errors.Join(os.RemoveAll(dir), os.Rename(kept, dir))
	}
	result := b.settle(m)
	if result.Left || result.Joined || result.Swarm.NodeID != first.Swarm.NodeID {
		t.Errorf("%+v, want the same node as before", result)
	}
	b.ready(result.Swarm.NodeID)
}

// A power cut left zeros where the engine notes how it joined: it does not
// start at all.
func TestEngineTorn(t *testing.T) {
	for _, name := range []string{"docker-state.json", "state.json"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1)
			first := b.settle(b.member(1))
			p1 := b.Slot(1)
			p1.KillEngine()
			b.must(os.WriteFile(filepath.Join(p1.DockerRoot(), "swarm", name), make([]byte, 100), 0o600))
			if err := p1.StartEngine(t.Context()); err == nil {
				t.Error("the engine starts with it: nothing needs to be unblocked")
			}
			if _, err := member.Unblock(p1.DockerRoot()); err != nil {
				t.Fatal(err)
			}
			b.must(p1.StartEngine(t.Context()))
			result := b.settle(b.member(1))
			// The engine takes up the certificate that it finds.
			if !result.Joined || result.Swarm.NodeID != first.Swarm.NodeID || b.entries() != 2 {
				t.Errorf("%+v and %d entries, want the node of before, joined again", result, b.entries())
			}
			b.ready(result.Swarm.NodeID)
		})
	}
}

//go:build linux

package clustertest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/clustertest"
	"hatchery/firstboot"
	"hatchery/firstboot/founding"
	"hatchery/internal/enginetest"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// patience is how long anything may take on a machine that does much else.
const patience = 3 * time.Minute

// rounds is how often something random is done: more with HATCHERY_SOAK=1.
func rounds(short, long int) int {
	if os.Getenv("HATCHERY_SOAK") == "1" {
		return long
	}
	return short
}

// eachSeed runs a test a number of times, two at a time, each with other random numbers.
// HATCHERY_CLUSTER_SEED says where they begin, so that what failed can be seen
// again: a subtest's name is its seed.
func eachSeed(t *testing.T, n int, run func(t *testing.T, r *rand.Rand)) {
	first := time.Now().UnixNano() % 1e6
	if text := os.Getenv("HATCHERY_CLUSTER_SEED"); text != "" {
		var err error
		if first, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatalf("HATCHERY_CLUSTER_SEED: %v", err)
		}
	}
	for i := range n {
		seed := first + int64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			t.Logf("HATCHERY_CLUSTER_SEED=%d", seed)
			run(t, rand.New(rand.NewPCG(uint64(seed), 5)))
		})
	}
}

// alone is for a controller that is on before any slot: it does not wait long
// for somebody who may keep a backup.
var alone = founding.Waits{Settle: time.Second, Grace: 5 * time.Second}

// until waits for something that comes about by itself.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s for %v", what, patience)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stands waits until a step of a machine's agent is in a state, with those
// words in its detail.
func stands(t *testing.T, c *clustertest.Cluster, m *enginetest.Machine, step, state, words string) {
	t.Helper()
	var s firstboot.StepState
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if all, err := c.AgentState(m); err == nil {
			s, _ = all.Of(step)
		}
		if s.State == state && strings.Contains(s.Detail, words) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s's step %s is %s (%s), not %s (%s)", m.Name, step, s.State, s.Detail, state, words)
}

// inOrder waits until everybody is in place and says so, and sees that nothing
// but what was to be happened on the way: no alarm, no state that was lost.
func inOrder(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	c.WaitSettled()
	for _, m := range c.Machines() {
		until(t, m.Name+"'s agent to be steady", func() bool {
			s, err := c.AgentState(m)
			return err == nil && s.Step == firstboot.Steady
		})
		broken, err := filepath.Glob(filepath.Join(m.State(), "*.broken*"))
		if err != nil || len(broken) > 0 {
			t.Errorf("%s has lost its state: %v %v", m.Name, broken, err)
		}
	}
	// The service may have been started again a moment ago.
	var view *enrol.ClusterView
	until(t, "the service to answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var err error
		view, err = c.Service().Cluster(ctx)
		return err == nil
	})
	for _, a := range view.Alarms {
		t.Errorf("an alarm of slot %d: %s: %s", a.Slot, a.Code, a.Detail)
	}
	// Being steady, nobody changes anything any more.
	c.WaitSettled()
}

// TestColdStartInAnyOrder powers machines on in one random order after the
// other, the controller's agent and its service apart: whoever is first waits
// for the rest.
func TestColdStartInAnyOrder(t *testing.T) {
	t.Parallel()
	eachSeed(t, rounds(2, 10), func(t *testing.T, r *rand.Rand) {
		c := clustertest.New(t, clustertest.Options{Slots: []int{1, 2, 3}})
		type part struct {
			name  string
			start func()
		}
		parts := []part{{"serve", c.StartServe}}
		for _, m := range c.Machines() {
			parts = append(parts, part{m.Name, func() { c.StartAgent(m) }})
		}
		r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		for _, p := range parts {
			pause := time.Duration(r.IntN(3000)) * time.Millisecond
			t.Logf("after %v: %s", pause, p.name)
			time.Sleep(pause)
			p.start()
		}
		all := time.Now()
		inOrder(t, c)
		t.Logf("in place %v after the last one was on", time.Since(all).Round(100*time.Millisecond))
	})
}

// TestControllerLate has the nodes wait for a controller that comes up in
// stages, as one does that configures its packages for minutes. The nodes try
// fifty times as often as they would, so that seconds do for minutes.
func TestControllerLate(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Slots: []int{1, 2}, Intervals: firstboot.Intervals{First: 20 * time.Millisecond, Most: time.Second}})
	for _, m := range c.Slots() {
		c.PowerOn(m)
	}
	for _, m := range c.Slots() {
		stands(t, c, m, "link", enrol.StateWaiting, "waits for the controller")
		// What a node can do without the controller is done meanwhile.
		stands(t, c, m, "docker", enrol.StateDone, "")
	}
	// They try every second. What is new is written, and some of it may come late.
	for _, m := range c.Slots() {
		until(t, m.Name+" to wear its card no more while nothing is new", func() bool {
			written := stateWritten(t, m)
			time.Sleep(3 * time.Second)
			return stateWritten(t, m).Equal(written)
		})
	}

	c.Controller.RefuseEngine("its packages are being configured")
	c.StartAgent(c.Controller)
	for _, m := range c.Slots() {
		stands(t, c, m, "link", enrol.StateDone, "")
		stands(t, c, m, "clock", enrol.StateWaiting, "waits for the controller's service")
	}
	c.StartServe()
	for _, m := range c.Slots() {
		stands(t, c, m, "clock", enrol.StateDone, "")
		stands(t, c, m, "join", enrol.StateWaiting, "waits for the controller's swarm")
	}
	c.Controller.RefuseEngine("")
	inOrder(t, c)
}

// stateWritten is when a machine's state.json was last written.
func stateWritten(t *testing.T, m *enginetest.Machine) time.Time {
	t.Helper()
	info, err := os.Stat(filepath.Join(m.State(), firstboot.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// TestTokenRotatedMidJoin has somebody rotate the token without pause, so that
// the one a node was given is worth nothing when its engine comes with it.
// Once every node has seen that, the rotating ends.
func TestTokenRotatedMidJoin(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Slots: []int{1, 2}, Founding: alone})
	c.PowerOn(c.Controller)
	c.WaitTable(strings.Split(c.Settled(nil), "\n")[0]) // the controller's line
	for _, m := range c.Slots() {
		c.PowerOn(m)
	}
	rotations := 0
	until(t, "every engine to come with a token that was rotated away", func() bool {
		if err := c.Controller.Engine().RotateWorkerToken(t.Context()); err != nil {
			t.Fatal(err)
		}
		rotations++
		return !slices.ContainsFunc(c.Slots(), func(m *enginetest.Machine) bool {
			return !strings.Contains(logOf(t, m, "dockerd"), "valid join token is necessary")
		})
	})
	t.Logf("rotated %d times", rotations)
	last := workerToken(t, c)
	inOrder(t, c)
	// What the nodes were given at last is rotated away too, with nobody
	// joining.
	until(t, "the token that was handed out to be rotated", func() bool { return workerToken(t, c) != last })
	inOrder(t, c)
}

func workerToken(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	cluster, err := c.Controller.Engine().Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cluster.WorkerToken
}

func logOf(t *testing.T, m *enginetest.Machine, name string) string {
	t.Helper()
	text, err := os.ReadFile(m.Log(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// TestKilledAtRandomPoints kills agents, the service and engines (-9) while
// everything comes up. What was killed is started again, as systemd does it.
func TestKilledAtRandomPoints(t *testing.T) {
	t.Parallel()
	eachSeed(t, rounds(5, 20), func(t *testing.T, r *rand.Rand) {
		c := clustertest.New(t, clustertest.Options{Slots: []int{1, 2}, Labels: map[int]map[string]string{1: {"disk": "ssd"}}})
		for _, m := range c.Machines() {
			c.PowerOn(m)
		}
		began := time.Now()
		upTo := func(most time.Duration) time.Duration { return time.Duration(r.Int64N(int64(most))) }
		for range 4 + r.IntN(5) {
			time.Sleep(upTo(1500 * time.Millisecond))
			m := c.Machines()[r.IntN(3)]
			what := []string{"agent", "dockerd", "serve"}[r.IntN(3)]
			if what == "serve" {
				m = c.Controller
			}
			t.Logf("%v: %s's %s", time.Since(began).Round(time.Millisecond), m.Name, what)
			switch what {
			case "agent":
				c.KillAgent(m)
				time.Sleep(upTo(time.Second))
				c.RestartAgent(m)
			case "serve":
				c.KillServe()
				time.Sleep(upTo(time.Second))
				c.StartServe()
			case "dockerd":
				m.KillEngine() // it is started again by itself
			}
		}
		inOrder(t, c)
		t.Logf("in place after %v", time.Since(began).Round(100*time.Millisecond))
	})
}

// TestUnpluggedWhileJoining cuts a node's link at the moment in which it was
// told to join, and then at random ones: by pulling the cable, and by losing
// all that goes through it for longer than an engine waits for its join.
func TestUnpluggedWhileJoining(t *testing.T) {
	t.Parallel()
	type cut struct {
		name       string
		begin, end func(m *enginetest.Machine) error
		length     time.Duration // at least
	}
	pulled := cut{"pulled", (*enginetest.Machine).Unplug, (*enginetest.Machine).Plug, 500 * time.Millisecond}
	blocked := cut{"blocked", (*enginetest.Machine).Block, (*enginetest.Machine).Unblock, 0}
	// Docker gives up waiting after 20 s, and goes on in the background.
	long := blocked
	long.length = 22 * time.Second
	for _, first := range []cut{pulled, long} {
		t.Run(first.name, func(t *testing.T) {
			t.Parallel()
			eachSeed(t, rounds(1, 5), func(t *testing.T, r *rand.Rand) {
				c := clustertest.New(t, clustertest.Options{Founding: alone})
				c.PowerOn(c.Controller)
				c.WaitTable(strings.Split(c.Settled(nil), "\n")[0])
				m := c.Slot(1)
				told := toldToJoin(t, c, m.Slot)
				c.PowerOn(m)
				select {
				case <-told:
				case <-time.After(patience):
					t.Fatal("the node was not told to join")
				}
				for i, now := range []cut{first, []cut{pulled, blocked}[r.IntN(2)], []cut{pulled, blocked}[r.IntN(2)]} {
					pause, length := time.Duration(0), now.length+time.Duration(r.IntN(3000))*time.Millisecond
					if i > 0 {
						pause = time.Duration(r.IntN(2000)) * time.Millisecond
					}
					t.Logf("%v later: %s for %v", pause, now.name, length)
					time.Sleep(pause)
					must(t, now.begin(m))
					time.Sleep(length)
					must(t, now.end(m))
				}
				began := time.Now()
				inOrder(t, c)
				t.Logf("in place %v after the last cut", time.Since(began).Round(100*time.Millisecond))
			})
		})
	}
}

// TestMemberUnplugged: a member whose cable was out comes back as the one that
// it was.
func TestMemberUnplugged(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{})
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	inOrder(t, c)
	m := c.Slot(1)
	before := clustertest.NodeOf(t, c.WaitSettled(), m.Slot)
	must(t, m.Unplug())
	c.WaitTable(strings.Replace(c.Settled(nil), "p1 p1 172.19.181.1 ready", "p1 p1 172.19.181.1 down", 1))
	must(t, m.Plug())
	began := time.Now()
	nodes := c.WaitSettled()
	t.Logf("ready %v after its cable was back", time.Since(began).Round(100*time.Millisecond))
	if after := clustertest.NodeOf(t, nodes, m.Slot); after.ID != before.ID {
		t.Errorf("the node was %s, and is %s after its cable was out", before.ID, after.ID)
	}
	inOrder(t, c)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// toldToJoin gives a channel that is closed when the service tells a slot to
// join, the next time.
func toldToJoin(t *testing.T, c *clustertest.Cluster, slot int) <-chan struct{} {
	t.Helper()
	// A moment by the service's own clock, which this process shares.
	since := time.Now()
	told := make(chan struct{})
	go func() {
		defer close(told)
		_ = c.Service().Events(t.Context(), true, func(e controller.Event) error {
			if e.Slot == slot && e.Kind == controller.EventJoin && !e.Time.Before(since) && strings.Contains(e.Detail, "told to join") {
				return errors.New("seen")
			}
			return nil
		})
	}()
	return told
}

// BenchmarkReady has a wiped node come up beside a controller that is up, and
// measures the time from an engine that answers to a node that the swarm's list
// shows as ready, active and labelled; next to it what the engine alone takes,
// told to join by hand. The difference is ours. The memory is that of the
// processes of this test binary, of which an agent is a small part; that which
// is not the binary's pages is the same as an agent's.
func BenchmarkReady(b *testing.B) {
	c := clustertest.New(b, clustertest.Options{Founding: alone, Times: controller.Times{
		Rotate: time.Hour, Join: time.Minute, Alive: 100 * time.Millisecond, Pending: time.Minute, Settle: 2 * time.Second}})
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	m := c.Slot(1)
	// in waits for an entry of the slot's that is none of the known ones.
	known := make(map[string]bool)
	in := func(is func(n swarm.Node) bool) time.Time {
		for {
			nodes, err := c.Controller.Engine().Nodes(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			for _, n := range nodes {
				if n.Addr == m.Addr && !known[n.ID] && is(n) {
					known[n.ID] = true
					return time.Now()
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	wiped := func() {
		c.PowerOff(m)
		c.Reflash(m)
	}
	nodes := c.WaitSettled()
	known[clustertest.NodeOf(b, nodes, 1).ID] = true
	var all, engine time.Duration
	for b.Loop() {
		wiped()
		c.PowerOn(m)
		for m.Engine().Ping(b.Context()) != nil {
			time.Sleep(5 * time.Millisecond)
		}
		up := time.Now()
		all += in(func(n swarm.Node) bool {
			return n.State == "ready" && n.Availability == "active" && n.Labels["hatchery.slot"] == m.Name
		}).Sub(up)
		c.WaitSettled()

		wiped()
		if err := m.StartEngine(b.Context()); err != nil {
			b.Fatal(err)
		}
		cluster, err := c.Controller.Engine().Cluster(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		up = time.Now()
		if err := m.Engine().Join(b.Context(), swarm.JoinOptions{Remotes: []string{netip.AddrPortFrom(c.Controller.Addr, swarm.Port).String()},
			Token: cluster.WorkerToken, Addr: m.Addr, Availability: "active"}); err != nil {
			b.Fatal(err)
		}
		engine += in(func(n swarm.Node) bool { return n.State == "ready" }).Sub(up)
	}
	wiped()
	c.PowerOn(m)
	c.WaitSettled()
	per := func(d time.Duration) float64 { return d.Seconds() / float64(b.N) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per(all), "s-up-to-ready")
	b.ReportMetric(per(engine), "s-engine-alone")
	b.ReportMetric(per(all-engine), "s-ours")
	for unit, pid := range map[string]int{"agent": c.AgentPid(m), "serve": c.ServePid(), "controller-agent": c.AgentPid(c.Controller)} {
		all, own := resident(b, pid)
		b.ReportMetric(all, "MiB-"+unit)
		b.ReportMetric(own, "MiB-"+unit+"-own")
	}
}

// resident is what a process has in memory, and what of it is its own, not the
// binary's pages, in MiB (proc_pid_status(5)).
func resident(b *testing.B, pid int) (all, own float64) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		for name, to := range map[string]*float64{"VmRSS:": &all, "RssAnon:": &own} {
			var kib float64
			if _, err := fmt.Sscanf(line, name+" %f kB", &kib); err == nil {
				*to = kib / 1024
			}
		}
	}
	return all, own
}

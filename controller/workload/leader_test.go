package workload_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/controller/workload"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// An onlooker is an engine of which it is seen whether it is worked with.
type onlooker struct {
	workload.Engine
	nodes []swarm.Node
	err   error
	asked int // so often it was about to be worked with
}

var errAsked = errors.New("it was asked for the swarm")

func (o *onlooker) Nodes(context.Context) ([]swarm.Node, error) { return o.nodes, o.err }

func (o *onlooker) Info(context.Context) (swarm.Info, error) {
	o.asked++
	return swarm.Info{}, errAsked
}

func (o *onlooker) ServiceEntries(context.Context) ([]swarm.ServiceEntry, error) {
	return nil, errAsked
}

// TestWhoApplies: of several controllers the one that leads the swarm does what is to be
// done, and no other.
func TestWhoApplies(t *testing.T) {
	node := func(name, host string, leads bool) swarm.Node {
		n := swarm.Node{ID: host, Hostname: host, Manager: true, State: "ready", Leads: leads}
		if name != "" {
			n.Labels = map[string]string{"hatchery.slot": name}
		}
		return n
	}
	for _, test := range []struct {
		summary string
		alone   bool
		nodes   []swarm.Node
		err     error
		waits   string // "" where it is this one's turn
	}{
		{summary: "the only controller", alone: true, err: swarm.ErrNoLeader},
		{summary: "this one leads", nodes: []swarm.Node{node("controller", "hammond", false), node("controller2", "landry", true), node("controller3", "oneill", false)}},
		{summary: "another leads", nodes: []swarm.Node{node("controller", "hammond", true), node("controller2", "landry", false)}, waits: "this controller does not lead the swarm: hammond does, and applies what is declared"},
		{summary: "who leads has no labels yet", nodes: []swarm.Node{node("", "landry", true)}, waits: "landry does"},
		{summary: "nobody leads", nodes: []swarm.Node{node("controller2", "landry", false)}, waits: "for the swarm: " + swarm.ErrNoLeader.Error()},
		{summary: "the engine is no manager", err: swarm.ErrNotManager, waits: "for the swarm: "},
		{summary: "the engine does not answer", err: swarm.ErrUnreachable, waits: "for the swarm: "},
	} {
		t.Run(test.summary, func(t *testing.T) {
			engine := &onlooker{nodes: test.nodes, err: test.err}
			s := applier(t, engine, test.alone)
			err := s.Round(t.Context())
			acts := errors.Is(err, errAsked)
			if acts != (test.waits == "") || acts != (engine.asked == 1) || err == nil {
				t.Errorf("it ends with %v, and asked the engine %d times", err, engine.asked)
			}
			if v := s.Status(t.Context()); test.waits != "" && (v.State != workload.StateWaiting || !strings.HasPrefix(v.Detail, test.waits) && !strings.Contains(v.Detail, ": "+test.waits)) {
				t.Errorf("it is %s: %s; not waiting, %s", v.State, v.Detail, test.waits)
			}
		})
	}
	// The lead goes to another one, and comes back.
	engine := &onlooker{}
	s := applier(t, engine, false)
	for i, leads := range []bool{false, true, false, true} {
		engine.nodes, engine.asked = []swarm.Node{node("controller", "hammond", !leads), node("controller2", "landry", leads)}, 0
		if err := s.Round(t.Context()); (engine.asked == 1) != leads {
			t.Errorf("round %d: %v", i, err)
		}
	}
}

// applier is the service of controller2, or of the only controller.
func applier(t *testing.T, engine workload.Engine, alone bool) *workload.Service {
	t.Helper()
	dir := t.TempDir()
	name := "controller2"
	n := &nodefile.Node{Role: nodefile.Controller, Name: name}
	if alone {
		name, n.Name = "controller", "controller"
	} else {
		for i, other := range []string{"controller", "controller2", "controller3"} {
			n.Controllers = append(n.Controllers, nodefile.OneController{Name: other, Address: netip.AddrFrom4([4]byte{192, 168, 42, byte(11 + i)})})
		}
	}
	n.Targets = []nodefile.Target{{Name: name, Address: netip.MustParseAddr("172.19.181.254"), Arch: "arm64"}}
	s, err := workload.New(workload.Options{
		Node: n, Engine: engine, Image: filepath.Join(dir, "image.json"), StateDir: dir,
		SecretsDir: filepath.Join(dir, "secrets"), ConfigsDir: filepath.Join(dir, "configs"), Key: []byte("a key that only the controller has"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

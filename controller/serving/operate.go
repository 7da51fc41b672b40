package serving

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"sync"
	"time"

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
	"hatchery/firstboot"
	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/netboot/slots"
)

// operating is what the service does for whoever runs the cluster: power, rebuilds and
// upgrades, consoles, the page, metrics. What cannot be there is nil, and the others
// go on without it.
type operating struct {
	o      Options
	node   *nodefile.Node
	boots  *netbooting
	client *controller.Client

	power      *power.Service
	console    *console.Service
	cards      *reimage.Service
	kept       *preserve.Keeper
	operations *operation.Service
	workloads  *workload.Service
	page       *page.Service
	metrics    *metrics.Service
	// absent says why what should be there is not, by where its calls would be.
	absent map[string]error

	events chan controller.Event

	began    time.Time
	troubles troubles
	least    generations
	boot     booting
	// bootOf says where a slot without a card is on its way; nil: there is none.
	bootOf func(slot int) (slots.Status, bool)
}

// openOperating gets everything ready.
func openOperating(o Options, node *nodefile.Node, id *enrol.Identity, engine *swarm.Engine, up *members, boots *netbooting) *operating {
	s := &operating{
		o: o, node: node, boots: boots, client: controller.Dial(o.Socket),
		events: make(chan controller.Event, 64), began: time.Now(),
		absent: map[string]error{},
	}
	state := filepath.Join(o.StateDir, nodefile.ServiceDir)
	missing := func(what string, err error) {
		if err != nil {
			o.Log.Error(what, "error", err)
		}
	}
	// absent is missing for what answers the command line: whoever asks is told why.
	absent := func(prefix, what string, err error) {
		missing(what, err)
		if err != nil {
			s.absent[prefix] = fmt.Errorf("%s: %w", what, err)
		}
	}
	var err error
	if boots.store != nil {
		s.cards, err = reimage.New(reimage.Options{
			Node: node, Identity: id, Store: boots.store, Dir: filepath.Join(o.StateDir, reimage.Folder), Log: o.Log, Times: o.Cards,
			Cycle: func(ctx context.Context, slot int) error { return s.power.Restart(ctx, slot) },
			Least: s.least.of,
		})
		missing("cards cannot be written in place", err)
		if s.cards != nil {
			unfinished := s.cards.Unfinished
			boots.unfinished.Store(&unfinished)
			rescued := s.cards.Rescued
			boots.rescued.Store(&rescued)
		}
	}
	p := power.Options{
		Node: node, StateDir: state, RunDir: o.RunDir, AtWork: s.atWork, Told: s.powerTold, Log: o.Log,
		Shutdown: shutdown(node, id), Missing: boots.noHAT, Limits: o.Power,
	}
	if boots.hat != nil {
		p.HAT = boots.hat
	}
	if boots.service != nil {
		p.Boots = boots.service
		s.bootOf = func(slot int) (slots.Status, bool) {
			status, known := boots.service.Status(slot)
			// A slot with a card has one of these where that is half written.
			begun := status.State == slots.Rescue || status.State == slots.Failed
			return status, known && (begun || boots.service.Drives(slot))
		}
	}
	if node.Docker {
		p.Ready = up.slots
	}
	s.power, err = power.New(p)
	absent(power.Prefix, "slots cannot be switched", err)

	s.console, err = console.New(console.Options{Slots: slotsOf(node), Dir: filepath.Join(o.RunDir, console.Folder), Log: o.Log})
	absent(console.Prefix, "consoles are not read", err)

	keeping := preserve.Options{Node: node, Identity: id, Dir: filepath.Join(o.StateDir, filepath.Base(preserve.Dir)), Log: o.Log}
	if s.cards != nil {
		keeping.Rewrites = s.cards.Rewrites
	}
	s.kept, err = preserve.New(keeping)
	absent(preserve.Prefix, "nothing can be kept for new roots", err)

	ops := operation.Options{
		Node: node, StateDir: state, Swarm: engine, View: s.client.Cluster, Renewer: s.renewer, Limits: o.Operations, Log: o.Log,
		Told: func(slot int, detail string) {
			s.tell(controller.Event{Time: time.Now(), Slot: slot, Kind: controller.EventOperation, Detail: detail})
		},
	}
	if s.kept != nil {
		ops.Keeper = keeper{s.kept}
	} else {
		ops.Unkept = fmt.Errorf("what outlives a root cannot be kept: %w: see to that, and `sudo systemctl restart hatchery` on the controller", err)
	}
	s.operations, err = operation.New(ops)
	absent(operation.Prefix, "nothing can be rebuilt or upgraded", err)
	// Where nobody knows what was done, no root is let go of that a slot could go back to.
	holds := func(int) bool { return true }
	if s.operations != nil {
		holds = s.operations.Holds
	}
	boots.holds.Store(&holds)
	// Netboot's own hand does not cut off who writes a boot partition either.
	keeps := func(slot int) bool {
		w := s.atWork(slot)
		return w != nil && w.Boot
	}
	boots.keeps.Store(&keeps)

	s.workloads, err = s.openWorkloads(id, engine)
	absent(workload.Prefix, "what is declared does not run", err)

	s.metrics, err = metrics.New(metrics.Options{Version: firstboot.Version(), View: s.client.Cluster, Events: s.client.Events, Log: o.Log})
	absent(metrics.Path, "there are no metrics", err)
	if s.metrics != nil && s.power != nil {
		missing("the power's metrics", s.metrics.Register(s.power.Collector()))
	}
	if s.metrics != nil && boots.service != nil {
		missing("netboot's metrics", s.metrics.Register(boots.service.Collector()))
	}
	var shown http.Handler
	if s.metrics != nil {
		shown = s.metrics.Calls()
	}
	s.page, err = page.New(page.Options{
		Node: node, View: s.client.Cluster, Events: s.client.Events, Actions: s.actions(), StateDir: state, Metrics: shown, Document: api.Calls(),
		IdentityDir: filepath.Join(o.ConfigDir, filepath.Base(enrol.IdentityDir)), Log: o.Log,
	})
	absent(page.Prefix, "there is no page", err)

	return s
}

func slotsOf(node *nodefile.Node) (slots []int) {
	for _, t := range node.Targets {
		if t.Slot > 0 {
			slots = append(slots, t.Slot)
		}
	}
	return slots
}

// tell hands on an event; nobody is kept waiting by one.
func (s *operating) tell(e controller.Event) {
	select {
	case s.events <- e:
	default:
	}
}

// powerTold hands on what was done with the slots' power.
func (s *operating) powerTold(e controller.Event) {
	s.troubles.power(e)
	s.tell(e)
}

// merge hands on the events of slots without cards, until ctx ends.
func (s *operating) merge(ctx context.Context, events <-chan controller.Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if s.bootOf != nil {
				if status, ok := s.bootOf(e.Slot); ok {
					s.troubles.netboot(e.Slot, status)
				}
			}
			s.tell(e)
		}
	}
}

// actions are what can be done with a slot from the page.
func (s *operating) actions() map[string]func(ctx context.Context, slot int) error {
	switched := func(what string) func(context.Context, int) error {
		return func(ctx context.Context, slot int) error {
			_, err := s.power.Do(ctx, slot, what, power.How{})
			return err
		}
	}
	actions := map[string]func(ctx context.Context, slot int) error{}
	if s.power != nil && s.boots.hat != nil {
		for _, what := range []string{power.DoOn, power.DoOff, power.DoCycle} {
			actions[what] = switched(what)
		}
	}
	if s.operations != nil {
		actions["rebuild"] = func(ctx context.Context, slot int) error {
			_, err := s.operations.Start(ctx, operation.Request{Kind: operation.Rebuild, Slots: []int{slot}, By: "the page"})
			return err
		}
	}
	return actions
}

// local are the calls of the command line.
func (s *operating) local() map[string]http.Handler {
	calls := map[string]http.Handler{api.Path: api.Calls()}
	if s.power != nil {
		calls[power.Prefix] = s.power.Calls()
	}
	if s.console != nil {
		calls[console.Prefix] = s.console.Calls()
	}
	if s.operations != nil {
		calls[operation.Prefix] = s.operations.Calls()
	}
	if s.workloads != nil {
		calls[workload.Prefix] = s.workloads.Calls()
	}
	if s.kept != nil {
		calls[preserve.Prefix] = s.kept.Calls()
	}
	if s.page != nil {
		calls[page.Prefix] = s.page.Calls()
	}
	if s.metrics != nil {
		calls[metrics.Path] = s.metrics.Calls()
	}
	for prefix, why := range s.absent {
		if calls[prefix] == nil {
			calls[prefix] = unavailable(why)
		}
	}
	return calls
}

// unavailable answers for what is not there.
func unavailable(why error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusServiceUnavailable, Code: kept.Failed, Detail: why.Error()})
	})
}

// nodeCalls are the calls of nodes.
func (s *operating) nodeCalls() map[string]func(w http.ResponseWriter, r *http.Request, slot int) {
	calls := map[string]func(w http.ResponseWriter, r *http.Request, slot int){}
	if s.cards != nil {
		maps.Copy(calls, s.cards.Calls())
	}
	// A node that is told that nothing is kept for it never asks again.
	restoring := preserve.Unavailable(s.absent[preserve.Prefix])
	if s.kept != nil {
		restoring = s.kept.NodeCalls()
	}
	maps.Copy(calls, restoring)
	return calls
}

// old is how long ago the controller's agent has looked when its findings say nothing
// any more: it looks every minute.
const old = 10 * health.LookEvery

// health is what the controller's agent found of its own machine, nil where it has not
// looked lately.
func (s *operating) health() *enrol.Health {
	h, looked, err := health.Read(filepath.Join(s.o.RunDir, health.File))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		s.o.Log.Warn("the controller's own findings", "error", err)
		return nil
	case time.Since(looked) > old:
		return nil
	}
	return h
}

// heard hands on what a node's agent said.
func (s *operating) heard(slot int, r enrol.StatusReport, member bool) {
	if s.power != nil {
		s.power.Heard(slot, member || !s.node.Docker && r.State == enrol.StateDone)
	}
	if s.cards != nil {
		s.cards.Heard(slot, r.BootID)
		s.cards.Holds(slot, r.Build)
	}
	if s.kept != nil {
		s.kept.Heard(slot, r, member)
	}
	s.troubles.heard(slot, r, member || !s.node.Docker, time.Now())
}

// cardView is where a card that is written stands, where no operation waits for it.
func cardView(c *reimage.View) *enrol.OperationView {
	return &enrol.OperationView{ID: "card", Kind: "card", Step: c.Phase, Detail: c.String(), Since: c.Since,
		GivenUp: c.GivenUp || c.StrandedS > 0 && !c.Started}
}

// beside fills in what others than the node say of a slot.
func (s *operating) beside(v *enrol.SlotView) {
	s.least.saw(v)
	if s.power != nil {
		s.power.Beside(v)
	}
	if s.bootOf != nil {
		if status, ok := s.bootOf(v.Slot); ok {
			v.Boot, v.BootInfo = string(status.State), status.Detail
			s.troubles.netboot(v.Slot, status)
		}
	}
	if s.operations != nil {
		v.Operation = s.operations.View(v.Slot)
	}
	if v.Operation == nil && s.cards != nil {
		if c := s.cards.View(v.Slot); c != nil {
			v.Operation = cardView(c)
		}
	}
	var operations []*operation.Operation
	if s.operations != nil {
		operations = s.operations.List()
	}
	v.LastError = s.troubles.last(v.Slot, operations)
}

// run does it all until ctx ends. What ends is begun again: nodes need none of it.
func (s *operating) run(ctx context.Context, beside *sync.WaitGroup) {
	again := func(what string, run func(context.Context) error) {
		beside.Go(func() {
			for {
				err := run(ctx)
				if ctx.Err() != nil {
					return
				}
				s.o.Log.Error(what+" ended, and is begun again", "error", err)
				select {
				case <-ctx.Done():
					return
				case <-time.After(runAgain):
				}
			}
		})
	}
	if s.power != nil {
		again("the slots' power", s.power.Run)
	}
	if s.console != nil {
		again("reading consoles", s.console.Run)
	}
	if s.cards != nil {
		again("writing cards", s.cards.Run)
	}
	if s.kept != nil {
		again("what is kept", s.kept.Run)
	}
	if s.operations != nil {
		again("operations", s.operations.Run)
	}
	if s.workloads != nil {
		again("what is declared to run", s.workloads.Run)
	}
	if s.page != nil {
		again("the page", s.page.Run)
	}
	if s.metrics != nil {
		again("metrics", s.metrics.Run)
	}
}

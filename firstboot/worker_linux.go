package firstboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"hatchery/firstboot/arm"
	"hatchery/firstboot/clock"
	"hatchery/firstboot/gadget"
	"hatchery/firstboot/keep"
	"hatchery/firstboot/link"
	"hatchery/firstboot/member"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/reimage"
	"hatchery/internal/swarm"
)

// workerSteps are the steps of a node in a slot.
func (e *environment) workerSteps() ([]Step, *reports) {
	e.floor()
	e.ask.Store(true)
	e.client = enrol.NewClient(e.identity, e.node.ControllerAddr, enrol.ClientOptions{Local: e.node.Address.Addr(), Now: e.Now, Others: e.otherControllers()})
	var steps []Step
	if !e.SkipGadget {
		steps = append(steps, e.gadgetStep())
	}
	steps = append(steps, e.linkStep(), e.clockStep())
	if !e.SkipMachine {
		steps = append(steps, e.growStep())
	}
	armer, preserver := e.armer(), e.preserver()
	e.stopped = e.restoring.Load
	serving := e.keepStep(armer.Handler(e.ctx), preserver.Calls())
	steps = append(steps, e.restoreStep(preserver))
	if e.node.Docker {
		steps = append(steps, e.dockerSteps()...)
		steps = append(steps, e.joinStep(), serving)
		steps = append(steps, e.lastSteps()...)
	} else {
		steps = append(steps, serving)
	}
	if !e.SkipMachine || e.Card != nil {
		steps = append(steps, e.cardStep(armer))
	}
	return steps, &reports{
		to: e.client,
		ready: func(s *State) bool {
			l, _ := s.Of("link")
			return l.State == enrol.StateDone
		},
		swarm: e.membership,
		rejoin: func() {
			// It goes on saying so until the node has asked.
			if !e.ask.Swap(true) {
				e.event(EventRejoin, slog.LevelInfo, "", "the controller wants to be asked about the swarm")
				e.wake("join")
			}
		},
		refused: func() {
			// An engine whose entry was removed calls itself active for ever.
			// What the controller says to the step, people see.
			if !e.ask.Swap(true) {
				e.wake("join")
			}
		},
	}
}

// membership is what the engine says of the swarm, for a report.
func (e *environment) membership(ctx context.Context) enrol.SwarmState {
	if !e.node.Docker {
		return enrol.SwarmState{}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return member.State(ctx, e.engine, e.DockerRoot)
}

// gadgetStep says how the gadget stands, which a unit of its own made early in
// the boot, and makes it where that failed or a device controller came late.
func (e *environment) gadgetStep() Step {
	return Step{Name: "gadget", Every: e.Intervals.Check, Run: func(ctx context.Context, tell Tell) (string, error) {
		status, err := gadget.Ensure(ctx, e.node, gadget.Options{Log: e.Log})
		return status.String(), err
	}}
}

func (e *environment) linkStep() Step {
	options := e.Link
	if options.Log == nil {
		options.Log = e.Log
	}
	return Step{
		Name: "link", Every: e.Intervals.Check,
		Wake: func(ctx context.Context) <-chan struct{} { return link.Watch(ctx, e.node, options) },
		Run: func(ctx context.Context, tell Tell) (string, error) {
			status, err := link.Ensure(ctx, e.node, options)
			if len(status.Repaired) > 0 {
				e.client.Reset()
			}
			switch {
			case errors.Is(err, link.ErrSilent) && e.otherAnswers(ctx):
				e.after(5*e.Intervals.First, "link")
				return "the own controller is silent, another one answers", nil
			case errors.Is(err, link.ErrSilent), errors.Is(err, link.ErrNoCarrier):
				// The controller may be off, or later than this node.
				return "", &Waiting{For: "the controller", After: 5 * e.Intervals.First, Err: err}
			case err != nil:
				return "", err
			}
			return status.String(), nil
		},
	}
}

func (e *environment) clockStep() Step {
	return Step{
		Name: "clock", Needs: []string{"link"}, Every: e.Intervals.Time,
		Run: func(ctx context.Context, tell Tell) (string, error) {
			result, err := e.syncClock(ctx)
			if err != nil && e.timed {
				// It was right, and a Pi loses a second or two a day.
				return "was right before; the controller cannot be asked: " + err.Error(), nil
			}
			if err != nil {
				return "", e.calling(err)
			}
			e.timed = true
			return result.String(), nil
		},
	}
}

// syncClock sets the clock by the controller's.
func (e *environment) syncClock(ctx context.Context) (clock.Result, error) {
	o := e.clock()
	o.Stepped = e.client.Reset
	o.Log = e.Log
	before := o.Now()
	result, err := clock.Sync(ctx, e.client, o)
	if err == nil && result.Stepped {
		e.event(EventClock, slog.LevelInfo, "", fmt.Sprintf("the clock was %s and is set by the controller's", before.UTC().Format(time.RFC3339)))
	}
	return result, err
}

// joinStep is the node's membership. The controller is asked when the agent
// starts, when it wants to be, and when the engine's state is another one; a
// membership that goes on as it was is only looked at.
func (e *environment) joinStep() Step {
	m := &member.Member{
		Engine: e.engine, Controller: e.client, Units: e.Units,
		SyncClock: func(ctx context.Context) error {
			_, err := e.syncClock(ctx)
			return err
		},
		DockerRoot: e.DockerRoot, Addr: e.node.Address.Addr(), ControllerAddr: e.node.ControllerAddr,
		Slot: e.node.Slot, BootID: e.BootID, AgentVersion: e.Version, Log: e.Log, Now: e.Now, Waits: e.Member,
	}
	if len(e.node.Controllers) > 0 {
		m.Towards = towards
	}
	var settled enrol.SwarmState // as the controller and the engine agreed on it
	return Step{
		Name: "join", Needs: []string{"link", "clock", "restore", "docker"}, Every: e.Intervals.Check, Limit: 20 * time.Minute,
		Run: func(ctx context.Context, tell Tell) (string, error) {
			if !e.ask.Load() {
				if now := member.State(ctx, e.engine, e.DockerRoot); now == settled && now.State == string(swarm.Active) && !m.Moved(ctx) {
					return joined(now), nil
				}
			}
			// Asked for once more while it goes on is once more afterwards.
			e.ask.Store(false)
			m.Tell = tell
			result, err := m.Reconcile(ctx)
			if err != nil {
				e.ask.Store(true)
				return "", err
			}
			settled = result.Swarm
			e.joined()
			return joined(settled), nil
		},
	}
}

func joined(s enrol.SwarmState) string {
	return strings.TrimSuffix(fmt.Sprintf("node %s of swarm %s", s.NodeID, s.ClusterID), " of swarm ")
}

// armer is what has this node's card written anew.
func (e *environment) armer() *arm.Armer {
	o := arm.Options{
		Node: e.node, Identity: filepath.Join(e.ConfigDir, filepath.Base(enrol.IdentityDir)), BootID: e.BootID, Now: e.Now, Log: e.Log,
		Restart: func(ctx context.Context) error { return e.Units.StartUnit(ctx, "reboot.target") },
	}
	switch {
	case e.Card != nil:
		o.Find = e.Card
	case e.SkipMachine:
		o.Find = func() (arm.Place, error) { return arm.Place{}, arm.ErrNoCard }
	}
	return arm.New(o)
}

// cardStep takes back that the card is to be written, where the controller has nothing to
// be written any more.
func (e *environment) cardStep(armer *arm.Armer) Step {
	return Step{
		Name: "card", Needs: []string{"link"},
		Run: func(ctx context.Context, tell Tell) (string, error) {
			_, err := armer.Armed()
			var unprepared *arm.NotPreparedError
			switch {
			case errors.Is(err, arm.ErrNoCard), errors.As(err, &unprepared):
				return err.Error(), nil
			case errors.Is(err, reimage.ErrNoOrder):
				// Files of one that was taken back may be left.
				_, err := armer.Disarm()
				return "nothing is to be written to it", err
			}
			if wanted, err := e.imageWanted(ctx); err != nil {
				return "", e.calling(err)
			} else if wanted {
				e.after(2*time.Minute, "card") // it may be taken back
				return "is written at the next start", nil
			}
			if _, err := armer.Disarm(); err != nil {
				return "", err
			}
			e.Log.InfoContext(ctx, "the card was to be written, and the controller has nothing for it any more")
			return "nothing is to be written to it any more", nil
		},
	}
}

// imageWanted asks the controller whether this node's card is to be written.
func (e *environment) imageWanted(ctx context.Context) (bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.client.URL(reimage.PathImage+"?"+reimage.QueryLook+"=1"), nil)
	if err != nil {
		return false, err
	}
	answer, err := e.client.HTTP().Do(request)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return false, nil
	case answer.StatusCode/100 == 2, answer.StatusCode == http.StatusServiceUnavailable: // its list is being made
		return true, nil
	}
	return false, fmt.Errorf("the controller answered %s when asked whether the card is to be written", answer.Status)
}

// keepStep serves what the controller asks of a node: /v1/backup, since nodes keep the
// controller's backups, reimage.PathArm, and enrol.PathShutdown.
func (e *environment) keepStep(armed http.Handler, kept map[string]http.Handler) Step {
	return Step{
		Name: "backups", Needs: []string{"link"}, Every: e.Intervals.Check,
		Run: func(ctx context.Context, tell Tell) (string, error) {
			address := netip.AddrPortFrom(e.node.Address.Addr(), enrol.Port)
			if !e.keeping.Load() {
				if err := e.keep(ctx, address, map[string]http.Handler{reimage.PathArm: armed, enrol.PathShutdown: e.shutdownCall()}, kept); err != nil {
					return "", fmt.Errorf("cannot keep backups of the controller's: %w", err)
				}
			}
			return "kept for the controller on " + address.String(), nil
		},
	}
}

// keep serves backups, and the calls beside, until the agent ends.
func (e *environment) keep(ctx context.Context, address netip.AddrPort, beside ...map[string]http.Handler) error {
	store, err := keep.Open(filepath.Join(e.StateDir, nodefile.BackupsDir))
	if err != nil {
		return err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", address.String())
	if err != nil {
		return err
	}
	e.keeping.Store(true)
	go func() {
		err := keep.Serve(e.ctx, listener, store, e.identity, e.Log, beside...)
		e.keeping.Store(false)
		if e.ctx.Err() == nil {
			e.Log.WarnContext(e.ctx, "backups are not served any more", "error", err)
			e.wake("backups")
		}
	}()
	return nil
}

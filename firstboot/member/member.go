// Package member is a worker's membership of the swarm: it asks the
// controller what to do, has the Docker Engine join or leave, and mends a
// membership that the engine cannot use any more.
//
// What the engine answers to a call says little: a join that "timed out" goes
// on, and one that it refuses may be done already. So the engine's own state
// is looked at before and after every call, and that decides (moby
// daemon/cluster: swarm.go, noderunner.go). A node leaves for two reasons
// only: the controller says so, or the engine cannot use its membership and
// neither waiting nor a restart helped.
package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"hatchery/firstboot/waiting"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// EngineUnit is the Docker Engine's unit.
const EngineUnit = "docker.service"

// An Engine is the node's Docker Engine: a *swarm.Engine.
type Engine interface {
	Info(ctx context.Context) (swarm.Info, error)
	Join(ctx context.Context, o swarm.JoinOptions) error
	Leave(ctx context.Context, force bool) error
}

// A Controller answers what a node is to do: a *enrol.Client.
type Controller interface {
	Join(ctx context.Context, r enrol.JoinRequest) (*enrol.JoinAnswer, error)
}

// Units starts and stops the node's units.
type Units interface {
	StartUnit(ctx context.Context, name string) error
	StopUnit(ctx context.Context, name string) error
}

// ErrClock says that the node's swarm certificate is refused for its dates,
// and the clock could not be set right. Nothing is thrown away for that.
var ErrClock = errors.New("the node's clock must be right first")

// A Wait is the error of a node that has to wait. Its After is when the
// controller wants to be asked again.
type Wait = waiting.Error

// Waits is how long a Member waits for what. Zero fields are the defaults.
type Waits struct {
	Poll    time.Duration // between two looks at the engine: 1 s
	Pending time.Duration // for a join that goes on in the background: 3 min
	Failed  time.Duration // for an engine that tries again by itself: 45 s
	Engine  time.Duration // for an engine that was restarted, or leaves: 2 min
	// Calm is the time in which it leaves maxLeaves times at the most because
	// the controller says so: 10 min.
	Calm time.Duration
}

func (w Waits) orDefaults() Waits {
	set := func(d *time.Duration, standard time.Duration) {
		if *d <= 0 {
			*d = standard
		}
	}
	set(&w.Poll, time.Second)
	set(&w.Pending, 3*time.Minute)
	set(&w.Failed, 45*time.Second)
	set(&w.Engine, 2*time.Minute)
	set(&w.Calm, 10*time.Minute)
	return w
}

// A Member is a worker's membership. Its methods are called by one goroutine
// at a time.
type Member struct {
	Engine     Engine
	Controller Controller
	// Units restarts an engine that is stuck. nil: it is never restarted.
	Units Units
	// SyncClock sets the clock by the controller's. It is called where the
	// engine refuses a certificate for its dates. nil: the clock is right.
	SyncClock func(ctx context.Context) error

	DockerRoot     string     // /var/lib/docker
	Addr           netip.Addr // the node's own on the slots' network
	ControllerAddr netip.Addr // on the slots' network
	// Towards gives the node's address on the way to a manager, where that is not
	// Addr: with several controllers the swarm is on the LAN, whose DHCP server gives
	// the address, and may give another one day. nil: Addr.
	Towards      func(manager netip.Addr) (netip.Addr, error)
	Slot         int
	BootID       string
	AgentVersion string

	Waits Waits
	// Tell says what is being done, for people. nil: nobody is told.
	Tell func(format string, args ...any)
	Log  *slog.Logger // nil: nothing is logged
	// Dial tries whether a manager can be reached, so that the reason of a
	// join that hangs can be told. nil: by TCP.
	Dial func(ctx context.Context, addr string) error
	Now  func() time.Time // nil: time.Now

	// restarted says that the engine was restarted for a membership that it
	// could not use. The next remedy is to leave.
	restarted bool
	// left is when the node last left because the controller said so.
	left []time.Time
}

// maxLeaves is how often a node leaves in Waits.Calm because the controller
// says so: every time all of its tasks end, and another dead entry stands in
// the swarm's list. Two of the controller's that disagree, or a mistake in it,
// must not do that to a cluster every few seconds.
const maxLeaves = 4

// A Result is how the membership stands, and what was done for it. It is as
// it was last seen where there was an error, too.
type Result struct {
	Swarm  enrol.SwarmState
	Action enrol.Action // the controller's last word, "" if it gave none
	Joined bool         // the node joined: it has a new entry in the swarm's list
	Left   bool         // the node left what it was part of
}

// maxAsks is how often the controller is asked in one Reconcile: an answer may
// be overtaken, by a rotated token for example.
const maxAsks = 4

// Reconcile brings the membership to what the controller wants it to be: with
// no error, the engine is an active worker of the controller's swarm. It ends
// after a bounded number of tries, and within minutes; the caller tries again
// after a while.
//
// Errors: *Wait; ErrClock; *enrol.Error as the controller refuses, which a
// person has to look at where it is not for a time; those of package swarm.
func (m *Member) Reconcile(ctx context.Context) (Result, error) {
	g := &going{Member: m, waits: m.Waits.orDefaults()}
	var err error
	for range maxAsks {
		var again bool
		if again, err = g.turn(ctx); !again {
			return g.result, err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if err == nil {
		err = errors.New("its state changes with every look")
	}
	return g.result, fmt.Errorf("not part of the swarm after %d tries: %w", maxAsks, err)
}

// State is what a node reports of its engine's membership: State "" where the
// engine does not answer.
func State(ctx context.Context, engine Engine, dockerRoot string) enrol.SwarmState {
	info, err := engine.Info(ctx)
	if err != nil {
		info = swarm.Info{Error: err.Error()}
	}
	return describe(info, dockerRoot)
}

// describe joins what the engine says with what its certificate says, which a
// worker's engine does not tell.
func describe(info swarm.Info, dockerRoot string) enrol.SwarmState {
	s := enrol.SwarmState{State: string(info.State), NodeID: info.NodeID, ClusterID: info.ClusterID, Error: info.Error}
	if info.State == swarm.Inactive {
		return s // a certificate that still lies there means nothing
	}
	if nodeID, clusterID, _, _, _, err := swarm.CertificateOf(dockerRoot); err == nil {
		if s.NodeID == "" {
			s.NodeID = nodeID
		}
		if s.ClusterID == "" {
			s.ClusterID = clusterID
		}
	}
	return s
}

// going is one Reconcile.
type going struct {
	*Member
	waits  Waits
	result Result
	synced bool // the clock was set by the controller's
}

// turn asks the controller once and does what it says. again says that the
// state is another one now, or the answer was overtaken: the controller is to
// be asked again; err is why.
func (g *going) turn(ctx context.Context) (again bool, err error) {
	info, err := g.look(ctx)
	if err != nil {
		return false, err
	}
	if g.datesRefused(info) {
		if err := g.syncClock(ctx); err != nil {
			return false, err
		}
	}
	answer, err := g.ask(ctx)
	if err != nil {
		return false, err
	}
	switch answer.Action {
	case enrol.Wait:
		return false, &Wait{For: reason(answer, "the controller"), After: answer.RetryAfter()}
	case enrol.Stay:
		return g.stay(ctx, info, answer)
	case enrol.Join:
		switch info.State {
		case swarm.Inactive:
			return g.join(ctx, answer)
		case swarm.Active:
			// Not a word to leave: a membership that works is kept.
			return false, fmt.Errorf("the controller says join (%s), but the node is a member: it is asked again", reason(answer, "no reason given"))
		case swarm.Pending:
			// The controller does not know of a join that goes on here.
			return g.await(ctx, false)
		}
		// The engine cannot use its membership, and the controller knows of none.
		if err := g.leave(ctx, "the engine cannot use its membership: "+info.Error); err != nil {
			return false, err
		}
		return g.join(ctx, answer)
	case enrol.LeaveAndJoin:
		if info.State != swarm.Inactive {
			if err := g.obey(ctx, reason(answer, "the controller says so")); err != nil {
				return false, err
			}
		}
		return g.join(ctx, answer)
	}
	return false, fmt.Errorf("the controller says %q, which this agent does not know: it may be older than the controller (build the node's image again)", answer.Action)
}

// ask asks the controller what to do.
func (g *going) ask(ctx context.Context) (*enrol.JoinAnswer, error) {
	g.tell("asking the controller")
	request := enrol.JoinRequest{BootID: g.BootID, AgentVersion: g.AgentVersion, Swarm: g.result.Swarm}
	if g.Slot != 0 {
		request.Slot = &g.Slot
	}
	answer, err := g.Controller.Join(ctx, request)
	if err != nil {
		var refused *enrol.Error
		if errors.As(err, &refused) {
			switch refused.Code {
			case enrol.ClockUntrusted:
				return nil, &Wait{For: "the controller's clock", After: refused.RetryAfter(), Err: err}
			case enrol.SwarmNotReady:
				return nil, &Wait{For: "the controller's swarm", After: refused.RetryAfter(), Err: err}
			}
		}
		return nil, fmt.Errorf("cannot ask the controller about the swarm: %w", err)
	}
	if answer == nil {
		return nil, errors.New("the controller gave no answer about the swarm")
	}
	g.result.Action = answer.Action
	return answer, nil
}

// stay sees to a membership that the controller knows.
func (g *going) stay(ctx context.Context, info swarm.Info, answer *enrol.JoinAnswer) (again bool, err error) {
	has := g.result.Swarm.ClusterID
	if answer.ClusterID != "" && has != "" && has != answer.ClusterID && info.State != swarm.Inactive {
		err := g.obey(ctx, fmt.Sprintf("the swarm is %s now, and the node is part of %s", answer.ClusterID, has))
		return err == nil, err
	}
	switch info.State {
	case swarm.Active:
		if moved := g.moved(info); moved != "" {
			err := g.obey(ctx, moved)
			return err == nil, err
		}
		g.restarted = false
		return false, nil
	case swarm.Pending:
		return g.await(ctx, true)
	case swarm.Inactive:
		return false, errors.New("the controller says stay, but the node is part of no swarm: it is asked again")
	}
	return g.mend(ctx, info)
}

// moved says that the node has another address now than its engine told the
// swarm, where that can be; "" if not. An engine takes another one by joining anew
// only.
func (m *Member) moved(info swarm.Info) string {
	if m.Towards == nil || len(info.Remotes) == 0 || !info.NodeAddr.IsValid() {
		return ""
	}
	manager, err := netip.ParseAddrPort(info.Remotes[0])
	if err != nil {
		return ""
	}
	// Without an address it may come back to the one that it had.
	now, err := m.Towards(manager.Addr())
	if err != nil || now == info.NodeAddr {
		return ""
	}
	return fmt.Sprintf("the node has the address %s now, and the swarm knows it by %s", now, info.NodeAddr)
}

// Moved says that the engine is a member by an address that the node has not any
// more: [Member.Reconcile] has it join anew.
func (m *Member) Moved(ctx context.Context) bool {
	if m.Towards == nil {
		return false
	}
	info, err := m.Engine.Info(ctx)
	return err == nil && info.State == swarm.Active && m.moved(info) != ""
}

// join has the engine join with the token of an answer, and waits until it is
// a member.
func (g *going) join(ctx context.Context, answer *enrol.JoinAnswer) (again bool, err error) {
	options, err := g.options(answer)
	if err != nil {
		return false, err
	}
	// What was true before the controller was asked may have changed.
	if info, err := g.look(ctx); err != nil || info.State != swarm.Inactive {
		return err == nil, err
	}
	g.tell("joining the swarm at %s", options.Remotes[0])
	joinErr := g.Engine.Join(ctx, options)
	info, err := g.look(ctx)
	if err != nil {
		return false, errors.Join(joinErr, err)
	}
	switch info.State {
	case swarm.Active:
		return g.joined(answer)
	case swarm.Pending:
		if again, err := g.await(ctx, false); err != nil || !again {
			return again, err
		}
		if g.result.Swarm.State == string(swarm.Active) {
			return g.joined(answer)
		}
		return true, errors.New("the join broke off: " + g.result.Swarm.Error)
	case swarm.Inactive:
	default:
		// Nothing was there before this join, so nothing is lost.
		err := g.leave(ctx, "the join failed: "+info.Error)
		return err == nil, errors.Join(err, info.Err(), joinErr)
	}
	switch {
	case joinErr == nil:
		return false, errors.New("the engine says that it joined, and is part of no swarm")
	case errors.Is(joinErr, swarm.ErrBadToken), errors.Is(joinErr, swarm.ErrCAMismatch):
		// The token was rotated, or the swarm made anew, since the answer.
		g.tell("the join token is no longer the swarm's")
		return true, joinErr
	case errors.Is(joinErr, swarm.ErrCertificateTime):
		if err := g.syncClock(ctx); err != nil {
			return false, err
		}
		return true, joinErr
	}
	return false, joinErr
}

// joined checks what the engine has become a member of.
func (g *going) joined(answer *enrol.JoinAnswer) (again bool, err error) {
	g.result.Joined, g.restarted = true, false
	if has := g.result.Swarm.ClusterID; has != "" && answer.ClusterID != "" && has != answer.ClusterID {
		return true, fmt.Errorf("the node joined swarm %s, the controller's is %s", has, answer.ClusterID)
	}
	g.log("joined the swarm", "node", g.result.Swarm.NodeID, "swarm", g.result.Swarm.ClusterID)
	return false, nil
}

// options reads where to join, and how.
func (g *going) options(answer *enrol.JoinAnswer) (swarm.JoinOptions, error) {
	o := swarm.JoinOptions{
		Remotes:      answer.RemoteAddrs,
		Token:        string(answer.JoinToken),
		Addr:         g.Addr,
		Availability: answer.Availability,
	}
	if o.Token == "" {
		return o, fmt.Errorf("the controller says %s, and gives no token", answer.Action)
	}
	if len(o.Remotes) == 0 {
		o.Remotes = []string{netip.AddrPortFrom(g.ControllerAddr, swarm.Port).String()}
	}
	if _, err := netip.ParseAddrPort(o.Remotes[0]); err != nil {
		return o, fmt.Errorf("the controller gives %q for the manager's address: %w", o.Remotes[0], err)
	}
	if g.Towards != nil {
		manager, _ := netip.ParseAddrPort(o.Remotes[0])
		a, err := g.Towards(manager.Addr())
		if err != nil {
			return o, &Wait{For: "an address on the LAN, where the managers are", Err: err}
		}
		o.Addr = a
	} else if answer.AdvertiseAddr != "" {
		a, err := netip.ParseAddr(answer.AdvertiseAddr)
		if err != nil {
			return o, fmt.Errorf("the controller gives %q for the node's address: %w", answer.AdvertiseAddr, err)
		}
		o.Addr = a
	}
	switch o.Availability {
	case "active", "pause", "drain":
	case "":
		o.Availability = "pause" // the controller labels it first
	default:
		return o, fmt.Errorf("the controller gives %q for the node's availability", o.Availability)
	}
	return o, nil
}

// await waits for a join that goes on in the background. again says that it
// has come to an end, whichever. known says that the controller knows the
// membership, so that it is not given up lightly.
func (g *going) await(ctx context.Context, known bool) (again bool, err error) {
	info, err := g.until(ctx, g.waits.Pending, "the join goes on", func(i swarm.Info) bool { return i.State != swarm.Pending })
	if err != nil {
		return false, err
	}
	switch info.State {
	case swarm.Pending:
	case swarm.Active, swarm.Inactive:
		return true, nil
	default:
		if known {
			return true, info.Err()
		}
		err := g.leave(ctx, "the join failed: "+info.Error)
		return err == nil, errors.Join(err, info.Err())
	}
	why := fmt.Errorf("the join has gone on for %v: %w", g.waits.Pending, g.obstacle(ctx, info))
	if known {
		return false, errors.Join(why, g.remedy(ctx, why.Error()))
	}
	return false, errors.Join(why, g.leave(ctx, why.Error()))
}

// mend sees to a membership that the controller knows and the engine cannot
// use.
func (g *going) mend(ctx context.Context, info swarm.Info) (again bool, err error) {
	if g.outdated() {
		// The clock is right: it was set by the controller's before.
		err := g.leave(ctx, "the node's swarm certificate is not valid at this time: "+info.Error)
		return err == nil, errors.Join(err, info.Err())
	}
	if errors.Is(info.Err(), swarm.ErrCertificateTime) && !g.restarted && g.Units != nil {
		// The certificate is good now, and the engine looked at it when it
		// started: it does not look again.
		err := g.remedy(ctx, info.Error)
		return err == nil, errors.Join(err, info.Err())
	}
	now, err := g.until(ctx, g.waits.Failed, "the engine tries again: "+info.Error, func(i swarm.Info) bool { return i.State != info.State })
	if err != nil {
		return false, err
	}
	if now.State != info.State {
		return true, info.Err()
	}
	err = g.remedy(ctx, "the engine cannot use its membership: "+now.Error)
	return err == nil, errors.Join(err, now.Err())
}

// remedy restarts the engine for a membership that it cannot use, and leaves
// where that was tried before.
func (g *going) remedy(ctx context.Context, why string) error {
	if g.Units == nil || g.restarted {
		return g.leave(ctx, why)
	}
	g.restarted = true
	return g.restart(ctx, why)
}

// obey leaves because the controller says so, but not again and again.
func (g *going) obey(ctx context.Context, why string) error {
	g.left = slices.DeleteFunc(g.left, func(at time.Time) bool { return time.Since(at) >= g.waits.Calm })
	if len(g.left) >= maxLeaves {
		return &Wait{
			For:   fmt.Sprintf("some peace: it left the swarm %d times within %v, and is told to leave again", maxLeaves, g.waits.Calm),
			After: g.waits.Calm - time.Since(g.left[0]),
			Err:   errors.New(why),
		}
	}
	g.left = append(g.left, time.Now())
	return g.leave(ctx, why)
}

// leave has the engine forget what it is part of.
func (g *going) leave(ctx context.Context, why string) error {
	g.tell("leaving the swarm: %s", why)
	g.log("leaves the swarm", "why", why, "node", g.result.Swarm.NodeID, "swarm", g.result.Swarm.ClusterID)
	err := g.Engine.Leave(ctx, true)
	if err != nil && !errors.Is(err, swarm.ErrNotActive) && !errors.Is(err, swarm.ErrUnreachable) && g.Units != nil && ctx.Err() == nil {
		// It could not end what runs; a new engine has nothing to end.
		if err = g.restart(ctx, "leaving failed: "+err.Error()); err == nil {
			err = g.Engine.Leave(ctx, true)
		}
	}
	if err != nil && !errors.Is(err, swarm.ErrNotActive) {
		return fmt.Errorf("cannot leave the swarm: %w", err)
	}
	info, err := g.until(ctx, g.waits.Engine, "leaving the swarm", func(i swarm.Info) bool { return i.State == swarm.Inactive })
	switch {
	case err != nil:
		return err
	case info.State != swarm.Inactive:
		return fmt.Errorf("left the swarm, and Docker still says that it is %s", info.State)
	}
	g.result.Left, g.restarted = true, false
	return nil
}

// restart stops and starts the engine, and waits until it answers.
func (g *going) restart(ctx context.Context, why string) error {
	g.tell("restarting Docker: %s", why)
	g.log("restarts Docker", "why", why)
	if err := g.Units.StopUnit(ctx, EngineUnit); err != nil {
		return fmt.Errorf("cannot stop Docker: %w", err)
	}
	if err := g.Units.StartUnit(ctx, EngineUnit); err != nil {
		return fmt.Errorf("cannot start Docker: %w", err)
	}
	_, err := g.until(ctx, g.waits.Engine, "Docker starts", func(swarm.Info) bool { return true })
	return err
}

// look asks the engine where it stands.
func (g *going) look(ctx context.Context) (swarm.Info, error) {
	info, err := g.Engine.Info(ctx)
	if err != nil {
		g.result.Swarm = enrol.SwarmState{Error: err.Error()}
		return info, err
	}
	g.result.Swarm = describe(info, g.DockerRoot)
	return info, nil
}

// until looks at the engine again and again, till it is as wanted or the time
// is over, and gives the last look. An engine that does not answer is one
// that starts.
func (g *going) until(ctx context.Context, most time.Duration, what string, wanted func(swarm.Info) bool) (swarm.Info, error) {
	start, told := time.Now(), 0
	for {
		info, err := g.look(ctx)
		if err == nil && wanted(info) {
			return info, nil
		}
		if passed := time.Since(start); passed >= most {
			return info, err
		} else if s := int(passed.Seconds()); s > told {
			told = s
			g.tell("%s (%d s)", what, s)
		}
		select {
		case <-ctx.Done():
			return info, fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(g.waits.Poll):
		}
	}
}

// obstacle says why a join hangs, as far as can be seen from here.
func (g *going) obstacle(ctx context.Context, info swarm.Info) error {
	manager := netip.AddrPortFrom(g.ControllerAddr, swarm.Port).String()
	if len(info.Remotes) > 0 {
		manager = info.Remotes[0]
	}
	dial := g.Dial
	if dial == nil {
		dial = reach
	}
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := dial(limited, manager); err != nil {
		return fmt.Errorf("the manager does not answer at %s: %w", manager, err)
	}
	if err := info.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the manager answers at %s: see `journalctl -u docker` for why the engine does not come through (the link's MTU, the clock)", manager)
}

func reach(ctx context.Context, addr string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// datesRefused says that a certificate's dates are why the engine cannot use
// its membership, by its own words or by the certificate's.
func (g *going) datesRefused(info swarm.Info) bool {
	switch info.State {
	case swarm.Inactive, swarm.Active:
		return false
	}
	return errors.Is(info.Err(), swarm.ErrCertificateTime) || g.outdated()
}

// outdated says that the node's swarm certificate is not valid now.
func (g *going) outdated() bool {
	_, _, _, from, to, err := swarm.CertificateOf(g.DockerRoot)
	now := time.Now
	if g.Now != nil {
		now = g.Now
	}
	return err == nil && (now().Before(from) || now().After(to))
}

// syncClock sets the clock by the controller's, once in a Reconcile.
func (g *going) syncClock(ctx context.Context) error {
	if g.synced || g.SyncClock == nil {
		return nil
	}
	g.tell("setting the clock: a certificate is refused for its dates")
	if err := g.SyncClock(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrClock, err)
	}
	g.synced = true
	return nil
}

func (g *going) tell(format string, args ...any) {
	if g.Tell != nil {
		g.Tell(format, args...)
	}
}

func (g *going) log(message string, args ...any) {
	if g.Log != nil {
		g.Log.Info(message, args...)
	}
}

func reason(answer *enrol.JoinAnswer, standard string) string {
	if answer.Reason != "" {
		return answer.Reason
	}
	return standard
}

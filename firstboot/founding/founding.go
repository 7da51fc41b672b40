// Package founding is the controller's swarm: it makes it, or gets it back.
//
// A swarm that runs is left as it is. Where there is none, the nodes are asked
// first whether they keep a backup of one, and only when they have had the
// time to answer is a new one made. A swarm that the engine cannot open any
// more is opened by force, with a copy of its folder beside it; when that
// fails, the folder is set aside and the newest backup takes its place.
// Nothing that holds a swarm's state is ever deleted.
//
// Most of that needs the engine stopped, and anything may be killed at any
// moment. So what is under way stands in founding.json, synced before each
// stage, and every stage can be begun again.
package founding

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"hatchery/firstboot/waiting"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// An Engine is the controller's Docker Engine: a *swarm.Engine.
type Engine interface {
	Info(ctx context.Context) (swarm.Info, error)
	Init(ctx context.Context, o swarm.InitOptions) (nodeID string, err error)
	Join(ctx context.Context, o swarm.JoinOptions) error
	Cluster(ctx context.Context) (swarm.Cluster, error)
	Set(ctx context.Context, o swarm.Settings) error
	Nodes(ctx context.Context) ([]swarm.Node, error)
}

// Units starts and stops the controller's units.
type Units interface {
	StartUnit(ctx context.Context, name string) error
	StopUnit(ctx context.Context, name string) error
}

// A Wait is the error of a controller that has to wait.
type Wait = waiting.Error

var (
	// ErrLocked: somebody has locked the swarm with a key. Only they can open it.
	ErrLocked = errors.New("the swarm is locked with a key: give it with `docker swarm unlock`, and turn it off for good with `docker swarm update --autolock=false`")
	// ErrWorker: the controller's engine is a worker, so the swarm is another
	// machine's.
	ErrWorker = errors.New("the controller's engine is a worker of a swarm: `docker swarm leave` on the controller lets it make its own")
	// ErrQuorum: somebody has made further managers, and too few of them are up.
	ErrQuorum = errors.New("the swarm has further managers, and too few of them are up: start them, or give them up with `docker swarm init --force-new-cluster` on the controller")
	// ErrSpace: Docker's disk is full.
	ErrSpace = errors.New("the disk of Docker's folder is full: make room (`docker system df` shows what takes it)")
)

// Waits is how long a Founding waits for what. Zero fields are the defaults.
type Waits struct {
	Poll    time.Duration // between two looks: 1 s
	Engine  time.Duration // for an engine that was started: 2 min
	Pending time.Duration // for a swarm that the engine is opening: 2 min
	// Settle is for slots to show up at all, 30 s, once one of them has: they
	// get their power together.
	Settle time.Duration
	// Grace is for the slots that are connected to answer whether they keep a
	// backup, and for one to be connected at all: 4 minutes, of which a Zero
	// may need two to boot.
	Grace time.Duration
	Ask   time.Duration // for other controllers to say whether they have the swarm: 20 s
}

func (w Waits) orDefaults() Waits {
	set := func(d *time.Duration, standard time.Duration) {
		if *d <= 0 {
			*d = standard
		}
	}
	set(&w.Poll, time.Second)
	set(&w.Engine, 2*time.Minute)
	set(&w.Pending, 2*time.Minute)
	set(&w.Settle, 30*time.Second)
	set(&w.Grace, 4*time.Minute)
	set(&w.Ask, 20*time.Second)
	return w
}

// EngineUnits are the Docker Engine's units, in the order in which they are
// stopped: the socket would start the engine again.
var EngineUnits = []string{"docker.socket", "docker.service"}

// A Founding is the controller's swarm. Its methods are called by one
// goroutine at a time.
type Founding struct {
	Engine  Engine
	Units   Units
	Backups Backups // nil: nobody keeps any
	// Others are the other controllers, by their names: a *enrol.Client each. Where
	// there are any, the swarm is theirs too, and on the LAN.
	Others map[string]Controller
	// BootID and AgentVersion are what they are told.
	BootID, AgentVersion string
	// Clock says whether the time can be trusted, and by what. No swarm is
	// made or got back before: its certificates would be of another year.
	Clock func(ctx context.Context) (source string, trusted bool, err error)
	// Connected gives the slots whose links are there. nil: not known, so
	// that every slot is waited for.
	Connected func(ctx context.Context) ([]int, error)

	Node       *nodefile.Node
	DockerRoot string // /var/lib/docker
	StateDir   string // founding.json lies here: /var/lib/hatchery
	// EngineUnits are stopped while the swarm's folder is changed. nil: the
	// package's EngineUnits.
	EngineUnits []string
	// Service is the unit of the controller's service, hatchery.service. It is
	// stopped while its folder is restored. "": it is left alone.
	Service string

	Waits Waits
	// Tell says what is being done, for people. nil: nobody is told.
	Tell func(format string, args ...any)
	Log  *slog.Logger // nil: nothing is logged

	// asking is since when nodes are asked for backups, by the monotonic
	// clock; zero: they are not.
	asking time.Time
	// alone is since when the other controllers are asked for the swarm.
	alone time.Time
	// restarted says that the engine was restarted for a swarm that it could
	// not open.
	restarted bool
	stopped   atomic.Bool
}

// EngineStopped says that the engine is stopped on purpose right now, while
// its folder is changed: whoever else starts the engine must wait. It may be
// called by any goroutine.
func (f *Founding) EngineStopped() bool { return f.stopped.Load() }

// How the swarm came to be.
const (
	Kept      = "kept"      // it was there
	Made      = "made"      // anew
	Recovered = "recovered" // from a backup that a node kept
	Reopened  = "reopened"  // by force, from what lay in Docker's folder
	Joined    = "joined"    // that of the other controllers
)

// A Result is how the swarm stands. It is as it was last seen where there was
// an error, too.
type Result struct {
	State     swarm.State
	NodeID    string
	ClusterID string
	How       string   // Kept and so on; "" while there is none
	Backup    string   // what it was recovered from, for people
	SetAside  []string // folders that hold the state of swarms that could not be opened
}

// maxStages bounds one Reconcile: no way from nothing to a swarm has as many.
const maxStages = 12

// Reconcile brings the controller to where its engine is the active manager
// of the cluster's swarm: then there is no error. It ends within minutes; the
// caller tries again after a while.
//
// Errors: *Wait; ErrLocked, ErrWorker, ErrQuorum and ErrSpace, where a person
// has to decide; those of package swarm.
func (f *Founding) Reconcile(ctx context.Context) (Result, error) {
	// Where it ends with the engine stopped, starting it is anybody's business.
	defer f.stopped.Store(false)
	if f.Node == nil || !f.Node.IsController() {
		return Result{}, errors.New("a swarm is made by the controller only: " + nodefile.Path + " is a node's")
	}
	g := &going{Founding: f, waits: f.Waits.orDefaults(), units: f.EngineUnits, node: f.Node}
	if g.units == nil {
		g.units = EngineUnits
	}
	var err error
	if g.plan, err = g.recall(); err != nil {
		return Result{}, err
	}
	for range maxStages {
		if err := ctx.Err(); err != nil {
			return g.result, err
		}
		done, err := g.stage(ctx)
		if err != nil {
			return g.result, g.meaning(err)
		}
		if done {
			return g.result, nil
		}
	}
	return g.result, fmt.Errorf("the controller's swarm is still %s after %d stages, the last one %q", g.result.State, maxStages, g.plan.Stage)
}

// going is one Reconcile.
type going struct {
	*Founding
	waits  Waits
	units  []string
	node   *nodefile.Node
	plan   plan
	noted  bool // there is a founding.json
	result Result
	backup Backup // that seek found in this Reconcile
	joined bool   // the other controllers' swarm was joined in this Reconcile
}

// meaning gives an error that a person can do something about its name.
func (g *going) meaning(err error) error {
	if strings.Contains(err.Error(), "no space left on device") && !errors.Is(err, ErrSpace) {
		return fmt.Errorf("%w: %w", ErrSpace, err)
	}
	return err
}

// stage does what comes next. done says that the swarm stands.
func (g *going) stage(ctx context.Context) (done bool, err error) {
	switch g.plan.Stage {
	case stageCopy:
		return false, g.reopen(ctx)
	case stageAside:
		return false, g.setAside(ctx)
	case stageRestore:
		return false, g.restore(ctx)
	}
	// The engine runs, or is to.
	info, err := g.look(ctx)
	if err != nil {
		if !g.plan.Stopped {
			return false, err // starting it is the business of whoever called
		}
		return false, g.start(ctx)
	}
	switch info.State {
	case swarm.Active:
		if !info.Manager {
			return g.activeWorker(ctx)
		}
		return g.founded(ctx, info)
	case swarm.Pending:
		return false, g.pending(ctx)
	case swarm.Locked:
		return false, ErrLocked
	case swarm.Inactive:
		return false, g.inactive(ctx)
	}
	return false, g.broken(ctx, info.Err())
}

// founded checks a swarm that runs, and ends what was under way. done says that
// nothing had to be changed that has it start again.
func (g *going) founded(ctx context.Context, info swarm.Info) (done bool, err error) {
	g.restarted, g.asking, g.alone = false, time.Time{}, time.Time{}
	if err := info.Err(); err != nil {
		if errors.Is(err, swarm.ErrNoLeader) && len(g.otherManagers()) > 0 {
			return false, fmt.Errorf("%w: %w", ErrQuorum, err)
		}
		return false, err
	}
	if g.plan.Restart {
		return false, g.renew(ctx)
	}
	if info.NodeAddr != g.node.SwarmAddr() {
		return false, g.readdress(ctx, info)
	}
	if err := g.checkSettings(ctx); err != nil {
		if errors.Is(err, swarm.ErrNoSigner) && g.changing() {
			return false, g.broken(ctx, err)
		}
		return false, err
	}
	g.result.How = Kept
	if g.joined {
		g.result.How = Joined
	}
	switch g.plan.Stage {
	case stageInit:
		g.result.How = Made
	case stageForce:
		g.result.How = Reopened
		if g.plan.Backup != "" {
			g.result.How, g.result.Backup = Recovered, g.plan.Describe
		}
	}
	g.result.SetAside = g.plan.Kept
	if err := g.note(info); err != nil {
		return false, err
	}
	if g.result.How != Kept {
		g.log("the swarm stands", "how", g.result.How, "swarm", g.result.ClusterID, "node", g.result.NodeID, "backup", g.result.Backup, "set_aside", g.plan.Kept)
	}
	if g.noted {
		return true, g.forget()
	}
	return true, nil
}

// renew restarts the engine, so that its manager is one that started with the
// swarm as it is.
func (g *going) renew(ctx context.Context) error {
	g.tell("restarting Docker, which begins to work with the swarm as it is now")
	if err := g.stop(ctx); err != nil {
		return err
	}
	g.plan.Restart = false
	return g.start(ctx)
}

// readdress gives a swarm that was made with another address the one that the
// nodes reach.
func (g *going) readdress(ctx context.Context, info swarm.Info) error {
	nodes, err := g.Engine.Nodes(ctx)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(nodes, func(n swarm.Node) bool { return n.Manager && n.ID != info.NodeID }); i >= 0 {
		return fmt.Errorf("the swarm has the address %s, the nodes reach the controller at %s: it is given that one when %s is no manager any more (`docker node demote`)",
			info.NodeAddr, g.node.SwarmAddr(), nodes[i].Hostname)
	}
	g.tell("giving the swarm the address %s instead of %s", g.node.SwarmAddr(), info.NodeAddr)
	g.log("the swarm has another address", "has", info.NodeAddr, "gets", g.node.SwarmAddr())
	g.plan.Restart = true
	if err := g.remember(); err != nil {
		return err
	}
	if err := g.init(ctx, true); err != nil {
		return fmt.Errorf("cannot give the swarm the address %s: %w", g.node.SwarmAddr(), err)
	}
	now, err := g.look(ctx)
	if err != nil {
		return err
	}
	if now.NodeAddr != g.node.SwarmAddr() {
		return fmt.Errorf("the swarm has the address %s, the nodes reach the controller at %s", now.NodeAddr, g.node.SwarmAddr())
	}
	return nil
}

// changing says that the swarm was made or opened by force, and has not stood
// since.
func (g *going) changing() bool { return g.plan.Stage == stageInit || g.plan.Stage == stageForce }

// checkSettings gives the swarm what node.json says of it.
func (g *going) checkSettings(ctx context.Context) error {
	wanted, err := g.settings()
	if err != nil {
		return err
	}
	if wanted == (swarm.Settings{}) && !g.changing() {
		return nil
	}
	cluster, err := g.Engine.Cluster(ctx)
	if err != nil {
		return err
	}
	there := cluster.Settings
	wanted = wanted.Or(there)
	// Setting what is set tells whether the swarm has the key of its CA, which
	// one does not that the engine was killed over.
	if there == wanted && !g.changing() {
		return nil
	}
	if there.CertExpiry != wanted.CertExpiry {
		g.tell("setting the life of the nodes' swarm certificates to %v", wanted.CertExpiry)
	}
	if there.Heartbeat != wanted.Heartbeat {
		g.tell("setting the heartbeat of the swarm's nodes to %v", wanted.Heartbeat)
	}
	return g.Engine.Set(ctx, wanted)
}

// settings is what node.json says of the swarm's settings.
func (g *going) settings() (o swarm.Settings, err error) {
	if g.node.Swarm == nil {
		return o, nil
	}
	if o.CertExpiry, err = g.node.Swarm.Expiry(); err != nil {
		return o, err
	}
	o.Heartbeat, err = g.node.Swarm.Beat()
	return o, err
}

// activeWorker looks at an engine that is no manager. One that has just been
// started is none for a moment.
func (g *going) activeWorker(ctx context.Context) (done bool, err error) {
	info, err := g.until(ctx, g.waits.Pending, "the swarm opens", func(i swarm.Info) bool { return i.State != swarm.Active || i.Manager })
	switch {
	case err != nil:
		return false, err
	case info.State == swarm.Active && !info.Manager:
		if _, _, role, _, _, err := swarm.CertificateOf(g.DockerRoot); err == nil && role == swarm.RoleManager {
			if len(g.otherManagers()) > 0 {
				return false, ErrQuorum
			}
			return false, g.broken(ctx, errors.New("the engine is a manager, and does not act as one"))
		}
		return false, ErrWorker
	}
	return false, nil
}

// pending waits for a swarm that the engine is opening.
func (g *going) pending(ctx context.Context) error {
	info, err := g.until(ctx, g.waits.Pending, "the swarm opens", func(i swarm.Info) bool { return i.State != swarm.Pending })
	if err != nil || info.State != swarm.Pending {
		return err
	}
	if _, _, role, _, _, err := swarm.CertificateOf(g.DockerRoot); err == nil && role == swarm.RoleWorker {
		return ErrWorker
	}
	if len(g.otherManagers()) > 0 && g.plan.Stage == "" {
		return ErrQuorum
	}
	return g.broken(ctx, fmt.Errorf("the swarm is not open after %v", g.waits.Pending))
}

// broken sees to a swarm that the engine cannot open: by a restart, by force,
// and then by setting it aside.
func (g *going) broken(ctx context.Context, why error) error {
	if why == nil {
		why = errors.New("the engine does not say why")
	}
	switch {
	case strings.Contains(why.Error(), "no space left on device"):
		return fmt.Errorf("%w: %w", ErrSpace, why)
	case errors.Is(why, swarm.ErrAddress):
		// The state itself is sound. What the address needs comes from elsewhere.
		if g.restarted {
			g.restarted = false // again the next time
			return why
		}
		return g.restart(ctx, why)
	}
	if err := g.clockTrusted(ctx); err != nil {
		return err
	}
	switch g.plan.Stage {
	case stageForce:
		return g.forceFailed(why)
	case stageInit:
		// Killed while it was made: there is nothing in it yet.
		return g.begin(stageAside, why)
	}
	if !g.restarted {
		return g.restart(ctx, why)
	}
	if len(g.Others) > 0 {
		return g.yield(ctx, why)
	}
	return g.begin(stageCopy, why)
}

// inactive sees to an engine that is part of no swarm.
func (g *going) inactive(ctx context.Context) error {
	if err := g.clockTrusted(ctx); err != nil {
		return err
	}
	if holdsSwarm(g.swarmDir()) {
		unused := errors.New("the swarm in Docker's folder is not in use")
		if g.plan.Stage != stageForce && len(g.Others) > 0 {
			return g.yield(ctx, unused)
		}
		if g.plan.Stage != stageForce {
			return g.begin(stageCopy, unused)
		}
		g.tell("opening the swarm in Docker's folder by force")
		if err := g.init(ctx, true); err != nil {
			if errors.Is(err, swarm.ErrAddress) || errors.Is(err, swarm.ErrUnreachable) {
				return err
			}
			g.log("the swarm cannot be opened by force", "error", err.Error())
			return g.forceFailed(err)
		}
		return nil
	}
	if len(g.Others) > 0 {
		if joined, err := g.joinOthers(ctx); joined || err != nil {
			return err
		}
	}
	found, err := g.seek(ctx)
	if err != nil {
		return err
	}
	if found != nil {
		g.found(found)
		return g.begin(stageRestore, nil)
	}
	g.tell("making the swarm")
	g.plan.Restart = true
	if err := g.begin(stageInit, nil); err != nil {
		return err
	}
	return g.init(ctx, false)
}

// forceFailed notes that a swarm cannot be opened by force. After two tries it
// is set aside.
func (g *going) forceFailed(why error) error {
	g.plan.Tries++
	if g.plan.Tries < maxForce {
		// With what the first try may have left behind out of the way.
		return g.begin(stageCopy, why)
	}
	return g.begin(stageAside, why)
}

// maxForce is how often a swarm is tried to be opened by force.
const maxForce = 2

// init makes a swarm, or opens by force the one that lies in Docker's folder.
func (g *going) init(ctx context.Context, force bool) error {
	set, err := g.settings()
	if err != nil {
		return err
	}
	o := swarm.InitOptions{Addr: g.node.SwarmAddr(), ForceNewCluster: force, Settings: set}
	if s := g.node.Swarm; s != nil {
		if o.AddressPool, err = s.Pool(); err != nil {
			return err
		}
	}
	_, err = g.Engine.Init(ctx, o)
	if errors.Is(err, swarm.ErrAlreadyMember) {
		return nil // it was quicker; the next look tells
	}
	return err
}

// clockTrusted waits for a clock that can be trusted.
func (g *going) clockTrusted(ctx context.Context) error {
	if g.Clock == nil {
		return nil
	}
	_, trusted, err := g.Clock(ctx)
	if err != nil || !trusted {
		return &Wait{For: "a clock that can be trusted (by NTP, or `swarm: {offline: true}` in cluster.yaml)", Err: err}
	}
	return nil
}

// look asks the engine where it stands.
func (g *going) look(ctx context.Context) (swarm.Info, error) {
	info, err := g.Engine.Info(ctx)
	if err == nil {
		g.result.State, g.result.NodeID, g.result.ClusterID = info.State, info.NodeID, info.ClusterID
	}
	return info, err
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
		if err := g.pause(ctx); err != nil {
			return info, fmt.Errorf("%s: %w", what, err)
		}
	}
}

func (g *going) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(g.waits.Poll):
		return nil
	}
}

// stop stops the engine, so that its folder can be changed.
func (g *going) stop(ctx context.Context) error {
	g.stopped.Store(true)
	if !g.plan.Stopped {
		g.plan.Stopped = true
		if err := g.remember(); err != nil {
			return err
		}
	}
	for _, unit := range g.units {
		if err := g.Units.StopUnit(ctx, unit); err != nil {
			return fmt.Errorf("cannot stop %s: %w", unit, err)
		}
	}
	return nil
}

// start starts the engine and waits until it answers. The service, which may
// have been stopped, is started before: it waits for the engine by itself.
func (g *going) start(ctx context.Context) error {
	defer g.stopped.Store(false)
	if g.Service != "" {
		if err := g.Units.StartUnit(ctx, g.Service); err != nil {
			// The swarm is not made to wait for it.
			g.log("cannot start the service", "unit", g.Service, "error", err.Error())
		}
	}
	for _, unit := range g.units {
		if err := g.Units.StartUnit(ctx, unit); err != nil {
			return fmt.Errorf("cannot start %s: %w", unit, err)
		}
	}
	if _, err := g.until(ctx, g.waits.Engine, "Docker starts", func(swarm.Info) bool { return true }); err != nil {
		return err
	}
	g.plan.Stopped = false
	return g.remember()
}

// restart restarts the engine for a swarm that it could not open.
func (g *going) restart(ctx context.Context, why error) error {
	g.restarted = true
	g.tell("restarting Docker: %v", why)
	g.log("restarts Docker", "why", why.Error())
	if err := g.stop(ctx); err != nil {
		return err
	}
	return g.start(ctx)
}

func (g *going) swarmDir() string { return filepath.Join(g.DockerRoot, "swarm") }

// seek asks the nodes for a backup until those that are there have answered,
// or had the time to: nil if there is none.
func (g *going) seek(ctx context.Context) (Backup, error) {
	if g.Backups == nil {
		return nil, nil
	}
	if g.asking.IsZero() {
		g.asking = time.Now()
	}
	for {
		there, awaited := g.there(ctx)
		offers, answered, err := g.Backups.Offers(ctx, there)
		if err != nil {
			return nil, fmt.Errorf("cannot look for a backup of the swarm: %w", err)
		}
		var missing []string
		for _, t := range awaited {
			if !slices.Contains(answered, t.Slot) {
				missing = append(missing, t.Name)
			}
		}
		passed := time.Since(g.asking)
		if len(missing) == 0 || passed >= g.waits.Grace {
			for _, b := range offers {
				if !slices.Contains(g.plan.Bad, b.ID()) {
					return b, nil
				}
			}
			return nil, nil
		}
		g.tell("asking the nodes for a backup of the swarm: waiting for %s (at most %d s more)", strings.Join(missing, ", "), int((g.waits.Grace - passed).Seconds()))
		if err := g.pause(ctx); err != nil {
			return nil, err
		}
	}
}

// slots are the targets that are nodes.
func (g *going) slots() []nodefile.Target {
	return slices.DeleteFunc(slices.Clone(g.node.Targets), func(t nodefile.Target) bool { return t.Slot == 0 })
}

// there are the nodes that can be asked, as far as is known; awaited are those
// that must have answered before it is certain that nobody has a backup. Until
// slots had the time to show up, that is all of them.
func (g *going) there(ctx context.Context) (there, awaited []nodefile.Target) {
	slots := g.slots()
	if g.Connected == nil {
		return slots, slots
	}
	connected, err := g.Connected(ctx)
	if err != nil {
		return slots, slots
	}
	there = slices.DeleteFunc(slices.Clone(slots), func(t nodefile.Target) bool { return !slices.Contains(connected, t.Slot) })
	// Where no slot has power yet, somebody is going to switch it on.
	if time.Since(g.asking) < g.waits.Settle || len(there) == 0 {
		return there, slots
	}
	return there, there
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

// own says that an address is the controller's.
func (g *going) own(addr string) bool {
	a, err := netip.ParseAddrPort(addr)
	return err == nil && a.Addr() == g.node.SwarmAddr()
}

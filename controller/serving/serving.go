// Package serving puts together what `hatchery serve` is on a controller: the
// enrolment service, with the engine, the clock, the bridge and the backups
// that it works with, and what systemd is told of it.
package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"hatchery/controller"
	"hatchery/controller/backup"
	"hatchery/controller/hat"
	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/controller/reimage"
	"hatchery/controller/workload"
	"hatchery/firstboot/clock"
	"hatchery/firstboot/founding"
	"hatchery/firstboot/systemd"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/internal/swarmbackup"
	"hatchery/netboot"
)

// Options are where the service finds what. Zero fields are what a controller
// has.
type Options struct {
	ConfigDir  string // node.json and identity/: /etc/hatchery
	StateDir   string // /var/lib/hatchery
	RunDir     string // /run/hatchery
	DockerHost string // unix:///run/docker.sock
	DockerRoot string // /var/lib/docker
	Socket     string // of the command line: /run/hatchery/hatchery.sock
	Log        *slog.Logger

	Times      controller.Times
	Backups    backup.Times
	Power      power.Limits
	Operations operation.Limits
	Cards      reimage.Times
	Workloads  workload.Limits
	// HAT is in place of the I²C bus that the HAT is on; nil for the kernel's.
	HAT hat.Bus
	// USB is in place of the USB bus that boards show up on; nil for the kernel's.
	USB netboot.Bus
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		value *string
		usual string
	}{
		{&o.ConfigDir, nodefile.ConfigDir},
		{&o.StateDir, nodefile.StateDir},
		{&o.RunDir, nodefile.RunDir},
		{&o.DockerHost, "unix:///run/docker.sock"},
		{&o.DockerRoot, "/var/lib/docker"},
		{&o.Socket, controller.Socket},
	} {
		if *d.value == "" {
			*d.value = d.usual
		}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Run serves until ctx ends, which is no error. An engine that is not there
// yet, or goes away, is waited for.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	node, err := nodefile.Read(filepath.Join(o.ConfigDir, filepath.Base(nodefile.Path)))
	if err != nil {
		return err
	}
	id, err := enrol.LoadIdentity(filepath.Join(o.ConfigDir, filepath.Base(enrol.IdentityDir)))
	if err != nil {
		return err
	}
	engine, err := swarm.Open(o.DockerHost)
	if err != nil {
		return err
	}
	defer engine.Close()
	state := filepath.Join(o.StateDir, nodefile.ServiceDir)
	up := &members{engine: engine, node: node, err: errors.New("the swarm was not looked at yet")}
	runner, err := backup.New(backup.Options{
		Identity: id, DockerRoot: o.DockerRoot, StateDir: state, Dir: filepath.Join(o.StateDir, nodefile.BackupsDir),
		Nodes: up.ready, Changes: engine.Events, Copies: min(2, max(1, len(node.Targets)-1)),
		Times: o.Backups, Log: o.Log,
	})
	if err != nil {
		return err
	}

	boots, err := openNetboot(ctx, o, node, id)
	if err != nil {
		// Nodes with cards need none of it.
		o.Log.Error("slots without cards cannot boot", "error", err)
		boots.broken = err
	}
	defer boots.close(o)
	operates := openOperating(o, node, id, engine, up, boots)
	local := operates.local()
	local[netboot.Prefix] = boots.calls()
	heard := boots.heard(node.Docker)

	// Its address may come much later, with br0: neither systemd nor its
	// watchdog waits for that.
	tell(o.Log, systemd.Ready())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	beside.Go(func() { up.look(ctx) })
	beside.Go(func() { watchdog(ctx, o) })
	failed := make(chan error, 1)
	beside.Go(func() {
		if err := runner.Run(ctx); err != nil && ctx.Err() == nil {
			failed <- fmt.Errorf("the backups ended: %w", err)
			cancel()
		}
	})
	beside.Go(func() { boots.run(ctx, o) })
	operates.run(ctx, &beside)
	beside.Go(func() { operates.merge(ctx, boots.events) })
	err = controller.Serve(ctx, controller.Options{
		Local: local, Bodies: []string{workload.Prefix}, Workloads: operates.workloadsView, Calls: operates.nodeCalls(), Beside: operates.beside, Health: operates.health, Events: operates.events,
		Heard: func(slot int, r enrol.StatusReport, member bool) {
			if heard != nil {
				heard(slot, r, member)
			}
			operates.heard(slot, r, member)
		},
		Engine: &unfinished{engine, filepath.Join(o.StateDir, founding.PlanFile)}, Managers: engine,
		Node: node, Identity: id, StateDir: state, Socket: o.Socket,
		Clock: clock.NewTrust(node).Trusted, Ports: slotOf, Backups: runner, Log: o.Log, Times: o.Times,
		Ready: func(listen net.Addr) {
			o.Log.Info("serving", "cluster", node.Cluster, "address", listen.String())
		},
	})
	tell(o.Log, systemd.Stopping())
	select {
	case broken := <-failed:
		return broken
	default:
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// tell reports that systemd could not be told: nothing depends on it.
func tell(log *slog.Logger, err error) {
	if err != nil {
		log.Warn("cannot notify systemd", "error", err)
	}
}

// watchdog says that the service is alive as long as it answers on its own
// socket.
func watchdog(ctx context.Context, o Options) {
	every, err := systemd.Watchdog()
	if err != nil || every <= 0 {
		tell(o.Log, err)
		return
	}
	client := controller.Dial(o.Socket)
	ticker := time.NewTicker(every / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		asking, cancel := context.WithTimeout(ctx, every)
		_, err := client.Cluster(asking)
		cancel()
		if err == nil {
			tell(o.Log, systemd.Alive())
		} else if ctx.Err() == nil {
			o.Log.Error("the service does not answer its own socket", "error", err)
		}
	}
}

// members are the nodes of the swarm that are up, as backups are given to
// them. The list is looked at in the background.
type members struct {
	engine *swarm.Engine
	node   *nodefile.Node

	mu   sync.Mutex
	list []swarmbackup.Node
	err  error // why the list is not known
}

// slots are those whose nodes are up.
func (m *members) slots() (map[int]bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	slots := map[int]bool{}
	for _, n := range m.list {
		slots[n.Slot] = true
	}
	return slots, nil
}

// lookEvery is the time between two looks, and the most that one may take.
const lookEvery = 10 * time.Second

func (m *members) ready() []swarmbackup.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list
}

func (m *members) look(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, lookEvery)
		nodes, err := m.engine.Nodes(asking)
		cancel()
		var list []swarmbackup.Node
		if err == nil {
			list = m.among(nodes)
		}
		m.mu.Lock()
		m.list, m.err = list, err
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// among gives the cluster's slots among the swarm's nodes that are up.
func (m *members) among(nodes []swarm.Node) []swarmbackup.Node {
	up, labelled := map[netip.Addr]bool{}, map[string]bool{}
	for _, n := range nodes {
		if n.State == "ready" && !n.Manager {
			up[n.Addr] = true
			// Where there are several controllers, the swarm's addresses are the LAN's.
			labelled[n.Labels["hatchery.slot"]] = len(m.node.Controllers) > 0
		}
	}
	var list []swarmbackup.Node
	for _, t := range m.node.Targets {
		if t.Slot != 0 && (up[t.Address] || labelled[t.Name]) {
			list = append(list, swarmbackup.Node{Name: t.Name, Slot: t.Slot, Addr: t.Address})
		}
	}
	return list
}

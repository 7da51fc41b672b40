package controller

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// Where the service keeps its state and is found by the command line.
const (
	StateDir = nodefile.StateDir + "/" + nodefile.ServiceDir
	Socket   = nodefile.RunDir + "/hatchery.sock"
)

// An Engine is what is asked of the controller's Docker Engine. *swarm.Engine
// is one.
type Engine interface {
	Info(ctx context.Context) (swarm.Info, error)
	Cluster(ctx context.Context) (swarm.Cluster, error)
	RotateWorkerToken(ctx context.Context) error
	Nodes(ctx context.Context) ([]swarm.Node, error)
	Node(ctx context.Context, id string) (swarm.Node, error)
	UpdateNode(ctx context.Context, id string, version uint64, spec swarm.NodeSpec) error
	RemoveNode(ctx context.Context, id string, force bool) error
	Events(ctx context.Context) (<-chan struct{}, error)
}

// Managers is what an engine is asked besides where there are several controllers.
// *swarm.Engine does it.
type Managers interface {
	RotateManagerToken(ctx context.Context) error
	Demote(ctx context.Context, id string, version uint64) error
}

// Backups is what takes the swarm's backups, beside the service.
type Backups interface {
	// Soon asks for a backup before long: a node has joined, the controller's own too,
	// or something was revoked. It may be asked again before there is one, and does not
	// wait.
	Soon()
	// View says where the newest backup is, nil if there is none.
	View() *enrol.BackupView
	// Write takes a backup now, sealed, and writes it.
	Write(ctx context.Context, w io.Writer) error
}

// Options are what [Serve] works with.
type Options struct {
	Node     *nodefile.Node  // the controller's own, with all targets
	Identity *enrol.Identity // the controller's
	StateDir string          // made if it is not there; "" is StateDir
	Engine   Engine
	Managers Managers // the engine's; needed where there are several controllers
	// Listen is the address of the service, "" for the controller's own on the
	// slots' network. An address that is not there yet is waited for.
	Listen string
	// Socket is where the command line finds the service, "" for nowhere.
	Socket string
	// Clock says whether the controller's time can be trusted, and by what.
	// Until then no node gets the time from it, or joins.
	Clock func(ctx context.Context) (source string, trusted bool, err error)
	// Ports says behind which slot's port an address is, as far as the bridge
	// knows; nil where there is nothing to ask.
	Ports   func(ctx context.Context, addr netip.Addr) (slot int, known bool, err error)
	Backups Backups // nil: none are taken
	// Local are more calls on the socket, by the prefix of their paths.
	Local map[string]http.Handler
	// Bodies are the prefixes of those whose calls may have a body, which they bound
	// themselves.
	Bodies []string
	// Events are of others, and are told with the service's own; nil for none.
	Events <-chan Event
	// Heard is told of every report that counts: member says that the node is
	// the member of the swarm that the controller takes it for. It does not wait.
	Heard func(slot int, r enrol.StatusReport, member bool)
	// Workloads is where what is declared to run stands, for the view; nil for nothing.
	Workloads func() *enrol.WorkloadsView
	// Health is what the controller found of itself, nil where nobody looked lately.
	// It does not wait; nil: nobody looks.
	Health func() *enrol.Health
	// Beside fills in what others than the node say of a slot, for what people are
	// shown. It does not wait.
	Beside func(v *enrol.SlotView)
	// Calls are more calls of nodes, by method and path as http.ServeMux has them.
	// Who calls has been let through as for every other call: a slot of this
	// cluster, by its certificate, its address and its port.
	Calls map[string]func(w http.ResponseWriter, r *http.Request, slot int)
	Log   *slog.Logger
	// Ready is called once, when the service listens on both addresses.
	Ready func(listen net.Addr)

	Times Times
}

// Times are how long the service waits for what. The zero value of each is
// what is right for a cluster; tests have less time.
type Times struct {
	// Rotate is how long nobody must have been joining before the token that
	// was handed out is made worthless. Default: 2 minutes.
	Rotate time.Duration
	// Join is how long a join is counted as open whose node is not heard of
	// again. Default: 10 minutes.
	Join time.Duration
	// Alive is how long after its last call a node is taken to be alive.
	// Default: a minute.
	Alive time.Duration
	// Pending is how long a node's engine may be joining in the background
	// before it is told to start over. Default: 5 minutes.
	Pending time.Duration
	// Settle is how often the list of nodes is looked through without
	// occasion. Default: 30 seconds.
	Settle time.Duration
}

func (t Times) withDefaults() Times {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&t.Rotate, 2 * time.Minute},
		{&t.Join, 10 * time.Minute},
		{&t.Alive, time.Minute},
		{&t.Pending, 5 * time.Minute},
		{&t.Settle, 30 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	return t
}

// check sees that the options can be served, and fills in what is usual.
func (o *Options) check() error {
	switch {
	case o.Node == nil || !o.Node.IsController():
		return errors.New("the service runs on the controller only: " + nodefile.Path + " is a node's")
	case o.Identity == nil || o.Identity.Peer.Slot != 0:
		return errors.New("the service needs the controller's identity: the certificate in " + enrol.IdentityDir + " is a node's")
	case o.Identity.Peer.Cluster != o.Node.Cluster:
		return errors.New("the certificate is of the cluster " + o.Identity.Peer.Cluster + ", the node file of " + o.Node.Cluster + ": build the controller's image again")
	case len(o.Node.Controllers) > 0 && o.Managers == nil:
		return errors.New("the service needs to manage managers, where there are several controllers")
	case o.Engine == nil || o.Clock == nil:
		return errors.New("the service needs an engine and a clock")
	}
	if o.StateDir == "" {
		o.StateDir = StateDir
	}
	if o.Listen == "" {
		o.Listen = netip.AddrPortFrom(o.Node.ControllerAddr, enrol.Port).String()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Times = o.Times.withDefaults()
	return nil
}

package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
)

// Port is where a manager listens for nodes, TCP.
const Port = 2377

// How long the engine may take, when the caller's context allows more. It
// bounds its own requests to the managers with 20 s; a Zero under load answers
// late, and an init or a leave stops and starts much.
const (
	shortCall = 60 * time.Second
	longCall  = 3 * time.Minute
)

// subnetSize is how large the networks are that overlay networks get from
// InitOptions.AddressPool.
const subnetSize = 24

// An Engine is a Docker Engine, by its socket. Its methods may be called at
// the same time.
type Engine struct {
	client *client.Client
}

// Open is the engine at host, "unix:///run/docker.sock". Nothing is sent
// yet: the engine need not run. Which version of the API is spoken is settled
// with the first answer (20.10 has 1.41).
func Open(host string) (*Engine, error) {
	// A connection a call: the engine restarts under us, and one that was
	// kept open would fail the next call instead of being made anew.
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c, err := client.NewClientWithOpts(client.WithHTTPClient(web), client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("address %q of the Docker Engine: %w", host, err)
	}
	return &Engine{client: c}, nil
}

// Close gives up what the engine holds.
func (e *Engine) Close() error { return e.client.Close() }

// Ping asks whether the engine answers: ErrUnreachable if not.
func (e *Engine) Ping(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	_, err := e.client.Ping(limited)
	return failed(ctx, "asking whether Docker is up", err)
}

// Info is what the engine says of itself and its membership.
func (e *Engine) Info(ctx context.Context) (Info, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	i, err := e.client.Info(limited)
	if err != nil {
		return Info{}, failed(ctx, "asking Docker for its state", err)
	}
	info := Info{
		State:    State(i.Swarm.LocalNodeState),
		Error:    i.Swarm.Error,
		NodeID:   i.Swarm.NodeID,
		NodeAddr: address(i.Swarm.NodeAddr),
		Manager:  i.Swarm.ControlAvailable,
		Engine:   i.ServerVersion,
		Hostname: i.Name,
		Root:     i.DockerRootDir,
	}
	if i.Swarm.Cluster != nil {
		info.ClusterID = i.Swarm.Cluster.ID
	}
	for _, peer := range i.Swarm.RemoteManagers {
		info.Remotes = append(info.Remotes, peer.Addr)
	}
	return info, nil
}

// Init makes a swarm, or with ForceNewCluster takes up the one that lies in
// Docker's folder, with this engine as its only manager, and gives the node's
// ID. An engine that is an active manager keeps its swarm with ForceNewCluster.
// Where there is no swarm to take up, ForceNewCluster must not be asked for:
// after a start that fails it would make a swarm without a key to sign with.
//
// Two things take an engine that is started again afterwards. A manager signs
// with the life of certificates that it found when it started (swarmkit
// ca/server.go, UpdateRootCA), and one that makes a swarm starts before it is
// told: the nodes that join get Docker's 90 days until then. And an engine
// that was a manager when ForceNewCluster was asked for may have lost its
// overlay networks, as every other one did that had been a manager for a second
// only: no new ones can be made (libnetwork agent.go: whoever listens for what
// the swarm tells goes with the first manager).
func (e *Engine) Init(ctx context.Context, o InitOptions) (string, error) {
	limited, cancel := context.WithTimeout(ctx, longCall)
	defer cancel()
	r := swarm.InitRequest{
		ListenAddr:      netip.AddrPortFrom(o.Addr, Port).String(),
		AdvertiseAddr:   o.Addr.String(),
		DataPathAddr:    o.Addr.String(),
		ForceNewCluster: o.ForceNewCluster,
		Availability:    swarm.NodeAvailabilityActive,
	}
	o.Settings.put(&r.Spec)
	if o.AddressPool.IsValid() {
		r.DefaultAddrPool, r.SubnetSize = []string{o.AddressPool.String()}, subnetSize
	}
	return e.start(ctx, limited, r)
}

// start starts a manager. With ForceNewCluster the engine stops the one that
// runs, and does not wait for its port: that is tried again for a while. The
// swarm is kept all the time, in Docker's folder.
func (e *Engine) start(ctx, limited context.Context, r swarm.InitRequest) (string, error) {
	const tries, pause = 40, 250 * time.Millisecond
	for try := 1; ; try++ {
		id, err := e.client.SwarmInit(limited, r)
		err = failed(ctx, "making the swarm", err)
		if err == nil || try == tries || !r.ForceNewCluster || !strings.Contains(err.Error(), "address already in use") {
			return id, err
		}
		select {
		case <-limited.Done():
			return "", err
		case <-time.After(pause):
		}
	}
}

// Join makes the engine a worker of a swarm, or a manager with that token. ErrJoinTimeout is no failure:
// Info tells how it went on. After any other error too, only Info knows. That
// Addr is one of this machine's, the engine does not check when it joins.
func (e *Engine) Join(ctx context.Context, o JoinOptions) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	err := e.client.SwarmJoin(limited, swarm.JoinRequest{
		ListenAddr:    netip.AddrPortFrom(o.Addr, Port).String(), // of a worker unused, but asked for
		AdvertiseAddr: o.Addr.String(),
		DataPathAddr:  o.Addr.String(),
		RemoteAddrs:   o.Remotes,
		JoinToken:     o.Token,
		Availability:  swarm.NodeAvailability(o.Availability),
	})
	return failed(ctx, "joining the swarm", err)
}

// Leave leaves the swarm and forgets all of it: tasks, certificate, and on a
// manager, which needs force, the swarm itself. The managers are not told.
func (e *Engine) Leave(ctx context.Context, force bool) error {
	limited, cancel := context.WithTimeout(ctx, longCall)
	defer cancel()
	return failed(ctx, "leaving the swarm", e.client.SwarmLeave(limited, force))
}

// Cluster is the swarm that this manager manages.
func (e *Engine) Cluster(ctx context.Context) (Cluster, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	s, err := e.client.SwarmInspect(limited)
	if err != nil {
		return Cluster{}, failed(ctx, "reading what the swarm is", err)
	}
	c := Cluster{
		ID:           s.ID,
		Version:      s.Version.Index,
		WorkerToken:  s.JoinTokens.Worker,
		ManagerToken: s.JoinTokens.Manager,
		Settings:     settingsOf(&s.Spec),
		Created:      s.CreatedAt,
		Updated:      s.UpdatedAt,
	}
	for _, pool := range s.DefaultAddrPool {
		if p, err := netip.ParsePrefix(pool); err == nil {
			c.AddressPool = append(c.AddressPool, p)
		}
	}
	return c, nil
}

// RotateWorkerToken makes the worker token worthless and a new one. Nodes that
// have joined stay.
func (e *Engine) RotateWorkerToken(ctx context.Context) error {
	return e.updateCluster(ctx, "rotating the swarm's worker token", func(*swarm.Spec) swarm.UpdateFlags {
		return swarm.UpdateFlags{RotateWorkerToken: true}
	})
}

// Set gives the swarm settings. The manager signs with another life of certificates
// from its engine's next start on, so not before the next boot.
func (e *Engine) Set(ctx context.Context, o Settings) error {
	return e.updateCluster(ctx, "setting the life of the nodes' swarm certificates and their heartbeat", func(s *swarm.Spec) swarm.UpdateFlags {
		o.Or(settingsOf(s)).put(s)
		return swarm.UpdateFlags{}
	})
}

// updateCluster changes the swarm's specification. It is sent whole, so it is
// read first; if somebody else was quicker, again.
func (e *Engine) updateCluster(ctx context.Context, doing string, change func(*swarm.Spec) swarm.UpdateFlags) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	const tries = 5
	for try := 1; ; try++ {
		s, err := e.client.SwarmInspect(limited)
		if err == nil {
			flags := change(&s.Spec)
			err = e.client.SwarmUpdate(limited, s.Version, s.Spec, flags)
		}
		err = failed(ctx, doing, err)
		if try == tries || !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

// Nodes is the list of nodes, in no order.
func (e *Engine) Nodes(ctx context.Context) ([]Node, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	list, err := e.client.NodeList(limited, swarm.NodeListOptions{})
	if err != nil {
		return nil, failed(ctx, "listing the swarm's nodes", err)
	}
	nodes := make([]Node, len(list))
	for i, n := range list {
		nodes[i] = nodeOf(n)
	}
	return nodes, nil
}

// Node is one entry of the list, by its ID: ErrNotFound if there is none.
func (e *Engine) Node(ctx context.Context, id string) (Node, error) {
	doing := "reading node " + id
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	n, err := e.inspect(limited, id)
	return nodeOf(n), failed(ctx, doing, err)
}

// inspect is the node of that ID. The engine takes host names and beginnings
// of IDs too, which another node may have.
func (e *Engine) inspect(ctx context.Context, id string) (swarm.Node, error) {
	n, _, err := e.client.NodeInspectWithRaw(ctx, id)
	if err == nil && n.ID != id {
		return swarm.Node{}, fmt.Errorf("%s is not the ID of a node, but node %s has that name: %w", id, n.ID, ErrNotFound)
	}
	return n, err
}

// UpdateNode sets what a manager may change of an entry: ErrConflict if the
// entry is no longer of that version.
func (e *Engine) UpdateNode(ctx context.Context, id string, version uint64, spec NodeSpec) error {
	doing := "changing node " + id
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	// The specification is sent whole: what is not ours to change (name and
	// role) is sent back as it is. That it is of this version, the engine checks.
	n, err := e.inspect(limited, id)
	if err != nil {
		return failed(ctx, doing, err)
	}
	n.Spec.Labels = spec.Labels
	n.Spec.Availability = swarm.NodeAvailability(spec.Availability)
	return failed(ctx, doing, e.client.NodeUpdate(limited, id, swarm.Version{Index: version}, n.Spec))
}

// RemoveNode removes an entry, and its certificate is refused from then on,
// till it expires. A node that is up is removed by force only: ErrNodeUp.
func (e *Engine) RemoveNode(ctx context.Context, id string, force bool) error {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	_, err := e.inspect(limited, id)
	if err == nil {
		err = e.client.NodeRemove(limited, id, swarm.NodeRemoveOptions{Force: force})
	}
	return failed(ctx, "removing node "+id, err)
}

// Events tells when nodes, services, networks, secrets or configs of the swarm
// change: the channel holds one token, however many changes there were since
// it was taken. It is closed when the engine goes away or ctx ends; then ask
// again, and take it that something has changed. Only a manager has events;
// a changed Cluster (a rotated token) is none.
func (e *Engine) Events(ctx context.Context) (<-chan struct{}, error) {
	ctx, cancel := context.WithCancel(ctx)
	messages, errs := e.client.Events(ctx, events.ListOptions{Filters: filters.NewArgs(filters.Arg("scope", "swarm"))})
	select {
	case err := <-errs:
		defer cancel()
		return nil, failed(ctx, "listening for the swarm's changes", err)
	default:
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer cancel()
		defer close(changed)
		for {
			select {
			case <-messages:
				select {
				case changed <- struct{}{}:
				default:
				}
			case <-errs: // the stream has ended
				return
			}
		}
	}()
	return changed, nil
}

// LoadImages loads an archive of images as `docker save` writes them. An
// image that the engine has is not loaded again.
func (e *Engine) LoadImages(ctx context.Context, archive io.Reader) error {
	const doing = "loading images into Docker"
	answer, err := e.client.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return failed(ctx, doing, err)
	}
	defer answer.Body.Close()
	// The status is sent before the work is done, so what went wrong comes in
	// the stream of messages (moby pkg/jsonmessage).
	for d := json.NewDecoder(answer.Body); ; {
		var message struct {
			Error string `json:"error"`
		}
		switch err := d.Decode(&message); {
		case err == io.EOF:
			return nil
		case err != nil && ctx.Err() == nil:
			return &engineError{doing: doing, words: "the answer broke off: " + err.Error(), kind: ErrUnreachable}
		case err != nil:
			return failed(ctx, doing, err)
		case message.Error != "":
			return &engineError{doing: doing, words: message.Error}
		}
	}
}

func nodeOf(n swarm.Node) Node {
	node := Node{
		ID:           n.ID,
		Version:      n.Version.Index,
		Hostname:     n.Description.Hostname,
		Addr:         address(n.Status.Addr),
		State:        string(n.Status.State),
		Message:      n.Status.Message,
		Availability: string(n.Spec.Availability),
		Manager:      n.Spec.Role == swarm.NodeRoleManager,
		Labels:       n.Spec.Labels,
		EngineLabels: n.Description.Engine.Labels,
		Engine:       n.Description.Engine.EngineVersion,
		Architecture: n.Description.Platform.Architecture,
		Created:      n.CreatedAt,
		Updated:      n.UpdatedAt,
	}
	if m := n.ManagerStatus; m != nil {
		node.ManagerAddr, node.Leads = m.Addr, m.Leader
	}
	return node
}

// address reads an address that the engine tells, with a port or without: the
// zero Addr for none and for 0.0.0.0, which it says of a node that it has not
// heard yet.
func address(s string) netip.Addr {
	if host, port, err := net.SplitHostPort(s); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			s = host
		}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

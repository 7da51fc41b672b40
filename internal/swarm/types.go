package swarm

import (
	"net/netip"
	"time"
)

// A State is an engine's LocalNodeState.
type State string

// The states.
const (
	Inactive State = "inactive"
	Pending  State = "pending" // a join goes on in the background
	Active   State = "active"
	Failed   State = "error"
	Locked   State = "locked"
)

// Info is what an engine says of itself and its membership.
type Info struct {
	State State
	// Error is what went wrong, in the engine's words. An Active manager has
	// one too when it cannot reach the swarm's state (no leader).
	Error     string
	NodeID    string
	NodeAddr  netip.Addr
	Manager   bool
	ClusterID string   // known to managers only
	Remotes   []string // managers that a worker knows, "172.19.181.254:2377"
	Engine    string   // version, 20.10.24
	Hostname  string
	Root      string // Docker's folder, /var/lib/docker
}

// InitOptions is how a swarm is made.
type InitOptions struct {
	Addr            netip.Addr   // advertised, listened on, and the data path's
	Settings                     // of one that is 0, Docker's own
	AddressPool     netip.Prefix // overlay networks are cut from it, /24 each; zero: Docker's
	ForceNewCluster bool         // recover what lies in Docker's folder
}

// JoinOptions is how an engine joins.
type JoinOptions struct {
	Remotes      []string // "172.19.181.254:2377"; Docker uses the first only
	Token        string
	Addr         netip.Addr // advertised and the data path's
	Availability string     // active, pause or drain
}

// A Cluster is the swarm itself, as a manager sees it.
type Cluster struct {
	ID           string
	Version      uint64 // rises with every change, a rotated token's too
	WorkerToken  string
	ManagerToken string
	Settings
	AddressPool []netip.Prefix
	Created     time.Time
	Updated     time.Time
}

// A Node is a node's entry in the list, as a manager sees it.
type Node struct {
	ID           string
	Version      uint64 // for Update
	Hostname     string
	Addr         netip.Addr
	State        string // ready, down, unknown, disconnected
	Message      string
	Availability string // active, pause, drain
	Manager      bool
	// ManagerAddr is where a manager is joined, Leads says that it leads the others.
	ManagerAddr  string
	Leads        bool
	Labels       map[string]string // of the manager's side
	EngineLabels map[string]string // of the node's own daemon.json
	Engine       string            // version
	Architecture string            // armv6l
	Created      time.Time
	Updated      time.Time
}

// A NodeSpec is what a manager may change of an entry.
type NodeSpec struct {
	Labels       map[string]string
	Availability string
}

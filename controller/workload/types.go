package workload

import "time"

// The states of all that is declared, and of a stack.
const (
	StateNone     = "none"     // nothing is declared
	StateWaiting  = "waiting"  // for nodes, for secrets, for the swarm
	StateApplying = "applying" // it is at work
	StateApplied  = "applied"  // the swarm has it
	StateFailed   = "failed"   // it is tried again
	StateOrphaned = "orphaned" // a stack that is declared no more and still runs
)

// A Status is where what is declared stands.
type Status struct {
	State  string    `json:"state"`
	Detail string    `json:"detail,omitempty"` // what it waits for, or what failed
	Since  time.Time `json:"since"`            // of the state
	// Declared is the digest of what is declared, Applied of what was last applied
	// whole, and AppliedAt when that was.
	Declared  string     `json:"declared,omitempty"`
	Applied   string     `json:"applied,omitempty"`
	AppliedAt *time.Time `json:"applied_at,omitempty"`
	// Asked counts what was asked for: by a change, by a call. Done is the last of
	// them that has come to an end, well or not: whoever waits for one waits for that.
	Asked    int            `json:"asked"`
	Done     int            `json:"done"`
	Stacks   []StackStatus  `json:"stacks,omitempty"` // in order, those that are orphaned last
	Networks []ObjectStatus `json:"networks,omitempty"`
	Secrets  []ObjectStatus `json:"secrets,omitempty"`
	Configs  []ObjectStatus `json:"configs,omitempty"`
	Warnings []string       `json:"warnings,omitempty"` // of the last time that it was applied
}

// A StackStatus is where a stack stands.
type StackStatus struct {
	Name     string          `json:"name"`
	State    string          `json:"state"`
	Detail   string          `json:"detail,omitempty"`
	Services []ServiceStatus `json:"services,omitempty"`
}

// A ServiceStatus is a service of a stack, as the swarm has it.
type ServiceStatus struct {
	Name    string `json:"name"`
	Image   string `json:"image,omitempty"`
	Mode    string `json:"mode,omitempty"` // replicated, global …; "" for one that is not there
	Running int    `json:"running"`
	Desired int    `json:"desired"`
}

// An ObjectStatus is a network, a secret or a config.
type ObjectStatus struct {
	Name    string `json:"name"`
	InSwarm string `json:"in_swarm,omitempty"` // the name that it has there, with its version; "" as long as it is not there
	// Others: somebody made it, and it is used as it is.
	Others bool `json:"others,omitempty"`
	// Pushed: it is in no image, `hatchery secrets push` brings it.
	Pushed bool `json:"pushed,omitempty"`
}

// What a Step does.
const (
	DoCreate = "create"
	DoUpdate = "update"
	DoRemove = "remove"
	DoLeave  = "leave" // what would be removed, and is not asked to be
)

// The kinds of what a Step is about.
const (
	KindNetwork = "network"
	KindSecret  = "secret"
	KindConfig  = "config"
	KindService = "service"
	KindStack   = "stack"
)

// A Step is one thing that is made different.
type Step struct {
	Do    string `json:"do"`
	Kind  string `json:"kind"`
	Name  string `json:"name"` // as the swarm has it
	Stack string `json:"stack,omitempty"`
	Why   string `json:"why,omitempty"` // what differs
}

// A Plan is what would be done.
type Plan struct {
	Declared string   `json:"declared,omitempty"` // the digest of what it is about
	Steps    []Step   `json:"steps"`              // none: the swarm has it all
	Waiting  string   `json:"waiting,omitempty"`  // what it waits for first
	Problems []string `json:"problems,omitempty"` // why it would fail
	Warnings []string `json:"warnings,omitempty"`
}

// Blocked says whether it would fail.
func (p *Plan) Blocked() bool { return len(p.Problems) > 0 }

// A Request says how.
type Request struct {
	// Prune removes stacks that are declared no more.
	Prune bool
	// NoPrune leaves services that are gone from their stack.
	NoPrune bool
}

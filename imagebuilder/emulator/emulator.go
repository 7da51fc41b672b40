// Package emulator boots images, as they were built, on emulated boards: the
// controller and its nodes side by side, wired as a ClusterHAT wires them, with
// nobody's privileges.
//
//	image ── kernel, device tree, initramfs, command line: out of its boot partition
//	  └───── a throw-away card over it (internal/qcow2), as large as QEMU wants it
//	           └─ qemu-system-arm -M raspi0
//	                console ──> a log with times; milestones; what the agent says
//	                USB ──────> a network card that we play: a cable to the other guest, or QEMU's user network
//	                timer   ──> watched: the guest loses events of it (see watch.go)
//
// What the emulator needs otherwise than a board are kernel arguments, which
// are told (see arguments.go). The image is only read.
package emulator

import (
	"context"
	"time"

	"hatchery/imagebuilder"
)

// Goal is how far guests are to come.
type Goal string

// The goals, each further than the one before.
const (
	Login  Goal = "login"  // the console asks for a log-in
	Docker Goal = "docker" // the engine answers
	Ready  Goal = "ready"  // the controller's swarm runs, and the node is a member that the controller agrees to
)

// Goals are all goals, in order.
var Goals = []Goal{Login, Docker, Ready}

// A Guest is a machine that is to be emulated.
type Guest struct {
	Target   string // controller, p1 …
	Slot     int    // 0 is the controller
	Hostname string
	Model    string // the model that the image was built for, as in cluster.yaml
	Image    string // the image: raw, compressed, or a layer of out/layers
}

// A Forward is a port of this machine that leads to one of a guest.
type Forward struct {
	Target string // controller, p1 …
	Port   int    // the guest's TCP port
	Local  int    // this machine's, on 127.0.0.1; 0 takes a free one
}

// Options say how a rig is put up.
type Options struct {
	Guests  []Guest
	Dir     string // where consoles and cards lie; made where it is missing, and locked
	Program string // QEMU; "" looks for qemu-system-arm in the PATH
	Images  imagebuilder.ImageOptions
	Append  []string  // more kernel arguments, of the user's
	Forward []Forward // beside ssh of the controller, or of a guest that is alone
	Keep    bool      // the cards stay in Dir, and the next rig there goes on with them
	Fresh   bool      // with Keep: cards that were kept are thrown away first
	Retries int       // how often a guest that hangs in the emulator is begun afresh
	// Told is called with everything that happens, one call at a time. It may ask
	// the rig for anything, but not wait for it: Wait, Renew and Close would wait for Told.
	Told func(Event)
}

// What an event is about.
const (
	Started   = "started"   // a guest's QEMU runs
	Milestone = "milestone" // the guest has got somewhere: Phase
	Step      = "step"      // the agent said something: Step, State, Detail
	Warning   = "warning"   // something that the user should know: Detail
	Rearmed   = "rearmed"   // the guest had lost a timer event, and has got it back
	Rebooted  = "rebooted"  // the guest rebooted; it goes on with its card
	Retried   = "retried"   // the guest hung, and is begun afresh on a new card
	Ended     = "ended"     // the guest's QEMU has ended: Detail
)

// An Event is something that happened to a guest.
type Event struct {
	Time    time.Time     `json:"time"`
	Elapsed time.Duration `json:"-"` // since the guest's QEMU was started, for the first time or by Renew
	Seconds float64       `json:"seconds"`
	Target  string        `json:"target"`
	Kind    string        `json:"kind"`
	Phase   Phase         `json:"phase,omitempty"`
	Step    string        `json:"step,omitempty"`
	State   string        `json:"state,omitempty"` // done, waiting, failed, lost, problem …, as the agent has it
	Detail  string        `json:"detail,omitempty"`
}

// Phase is how far a guest has come, as its console shows.
type Phase string

// The phases, in the order in which they come.
const (
	Off    Phase = "off"
	Power  Phase = "power"  // QEMU runs
	Kernel Phase = "kernel" // the kernel speaks
	System Phase = "system" // its init does
	Agent  Phase = "agent"  // the agent does
	LogIn  Phase = "log-in" // the console asks for a log-in; the agent may come later
)

// A StepStatus is what the agent last said of a step.
type StepStatus struct {
	State  string        `json:"state"`
	Detail string        `json:"detail,omitempty"`
	At     time.Duration `json:"-"` // since the guest's start
}

// Status is where a guest stands.
type Status struct {
	Target   string                `json:"target"`
	Hostname string                `json:"hostname"`
	Board    string                `json:"board"` // what QEMU emulates: raspi0 …
	Phase    Phase                 `json:"phase"`
	Steps    map[string]StepStatus `json:"steps"`
	Latest   string                `json:"latest"` // the step that spoke last
	Elapsed  time.Duration         `json:"-"`
	Seconds  float64               `json:"seconds"` // since the guest's start
	Reached  map[Goal]float64      `json:"reached"` // seconds until each goal that was reached
	Rearmed  int                   `json:"rearmed"` // timer events given back
	Reboots  int                   `json:"reboots"`
	Retries  int                   `json:"retries"`
	Console  string                `json:"console"` // the log's path
	Frames   int64                 `json:"frames"`  // passed on its cable to or from the controller, of this guest's
	Bytes    int64                 `json:"bytes"`
}

// A Rig is a set of guests that are wired together.
//
//	Start    puts it up and switches all guests on
//	Wait     until all guests, or the named ones, have reached a goal
//	Status   of every guest, the controller first
//	Renew    throws a guest's card away and switches it on afresh
//	Cut      pulls or plugs a node's cable
//	Close    switches everything off
type Rig struct {
	rig
}

// Start puts up a rig. A mistake of the caller's (an image that is not there,
// a base that no board emulates) is an [*imagebuilder.InputError]; QEMU that is
// not installed is a [*NotInstalledError].
//
// The rig lives until Close, or until ctx ends.
func Start(ctx context.Context, o Options) (*Rig, error) { return start(ctx, o) }

// Wait waits until the named guests (none: all) have reached the goal. A guest
// that cannot get there any more ends it: a [*GuestError].
func (r *Rig) Wait(ctx context.Context, goal Goal, targets ...string) error {
	return r.wait(ctx, goal, targets)
}

// Status tells where every guest stands, the controller first.
func (r *Rig) Status() []Status { return r.status() }

// Renew switches a guest off, throws its card away, and boots it afresh, as one
// whose card was flashed again.
func (r *Rig) Renew(ctx context.Context, target string) error { return r.renew(ctx, target) }

// Cut pulls a node's cable to the controller, or plugs it in again.
func (r *Rig) Cut(target string, cut bool) error { return r.cut(target, cut) }

// SSHConfig is the path of an ssh_config(5) by which the guests are reached by
// their host names. It includes the one beside the images.
func (r *Rig) SSHConfig() string { return r.sshConfig() }

// Forwards are the ports that lead to guests.
func (r *Rig) Forwards() []Forward { return r.forwards() }

// Arguments are the kernel arguments that a guest got beside the image's own,
// and why.
func (r *Rig) Arguments(target string) []Argument { return r.arguments(target) }

// Close switches all guests off and waits until they are. Without Keep their
// cards go; the consoles' logs stay.
func (r *Rig) Close() error { return r.close() }

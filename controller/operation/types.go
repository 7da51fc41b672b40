package operation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/kept"
	"hatchery/internal/swarm"
)

// A Kind is what an operation does.
type Kind string

// The kinds.
const (
	Rebuild Kind = "rebuild" // the root that the slot has, as on its first day
	Upgrade Kind = "upgrade" // the root that was pushed for it
	Undo    Kind = "undo"    // the root before
)

// The states of an operation.
const (
	Running    = "running"
	Cancelling = "cancelling" // it ends at the next point where it may
	Done       = "done"
	Failed     = "failed"
	Cancelled  = "cancelled"
)

// The steps of a slot, in their order; the last three are ends.
const (
	StepQueued = "queued"
	StepCheck  = "check"  // whether it can be done, and what the slot has now
	StepDrain  = "drain"  // its tasks go elsewhere
	StepKeep   = "keep"   // what outlives its root is saved
	StepRenew  = "renew"  // its root is renewed
	StepUndo   = "undo"   // it goes back to the root before
	StepBoot   = "boot"   // its node is waited for
	StepReturn = "return" // it gets its labels and its availability back
	StepHealth = "health" // the services are waited for
	// StepWithdraw is on the way to an end before the time: it gets its
	// availability back, renewed or not.
	StepWithdraw  = "withdraw"
	StepDone      = "done"
	StepFailed    = "failed"
	StepCancelled = "cancelled"
)

// Tell says where a piece of work stands: a word for programs, "" for the one
// before, and for people.
type Tell = func(step, detail string)

// A Renewer renews the roots of slots, in one way. Its methods end with ctx;
// when the service is started again they are called again with the same slot, and
// go on with what was begun.
type Renewer interface {
	// Kind is what the slot's root is: card, netboot.
	Kind() string
	// Check says why a slot cannot be renewed now, with the remedy; nil if it can.
	Check(ctx context.Context, slot int) error
	// Plan says what would be written, and what is lost with it.
	Plan(ctx context.Context, slot int) (Plan, error)
	// Renew gives a slot its new root, and has it boot that.
	Renew(ctx context.Context, slot int, tell Tell) error
	// Undo gives a slot the root that has this name in a [Plan], the one before where
	// it is "", and has it boot that. Its error matches ErrNothingWritten where the
	// slot has that root still: its node was left alone then.
	Undo(ctx context.Context, slot int, to string, tell Tell) error
}

// A Canceller is a Renewer that can leave a slot as it is, as long as nothing was
// written. Its error says why it cannot any more.
type Canceller interface {
	Cancel(ctx context.Context, slot int) error
}

// A Forgetter is a Renewer that knows what a slot's root was to become: it is told that the
// slot's node runs another one, since somebody put a new card in.
type Forgetter interface {
	Forget(slot int) error
}

// A Plan is what renewing a slot's root means.
type Plan struct {
	Slot int    `json:"slot"`
	Name string `json:"name"` // p1
	Kind string `json:"kind"` // the renewer's: card, netboot
	// Roots, by names that are equal for equal ones (digests); "" for none, or
	// where nobody knows.
	Current  string `json:"current,omitempty"`
	Next     string `json:"next,omitempty"`     // what the slot is to have
	Previous string `json:"previous,omitempty"` // what Undo goes back to
	Bytes    int64  `json:"bytes,omitempty"`    // to be written, 0 where nobody knows
	// Generation is of the certificate in the next root, 0 where nobody knows.
	Generation int `json:"generation,omitempty"`
	// PreviousGeneration is of the certificate in the root before.
	PreviousGeneration int `json:"previous_generation,omitempty"`
	// Intact says that the root before comes back with what it had written, and not as its
	// image is: what was kept is not for it.
	Intact bool `json:"intact,omitempty"`
	// NoWayBack says why Undo could not give the slot back what it has now, with the
	// remedy; "" where it could, or nobody knows more.
	NoWayBack string   `json:"no_way_back,omitempty"`
	Discards  []string `json:"discards,omitempty"` // what is lost, for people
	Keeps     []string `json:"keeps,omitempty"`    // what outlives it, for people
	// Continues is the operation that this one goes on with, and the flags that it has from
	// there: "rebuild-12 --keep".
	Continues string `json:"continues,omitempty"`
	// Refused says why it cannot be done, with the remedy; "" where it can.
	Refused string `json:"refused,omitempty"`
}

// A Keeper saves what outlives a slot's root, for the agent in the next one. What it
// has belongs to the operation, by its ID, that saved it, until that lets go of it or the
// node with the next root has it.
type Keeper interface {
	// Plan asks the slot's node what there is.
	Plan(ctx context.Context, slot int) (*kept.Plan, error)
	// Save fetches it from the slot's node. What was saved before stays until that is
	// whole, and where the node has not got it back. Its error matches ErrGone where the
	// node cannot be asked, and nothing from before waits for its next root.
	Save(ctx context.Context, slot int, operation string, tell Tell) error
	// Waits says whether something waits for the slot's next root.
	Waits(slot int) bool
	// Lacks names what of it the slot's root did not put into place; "" where nothing is
	// missing.
	Lacks(slot int) string
	// Again has the slot's next root get what was saved last, though the one that is given
	// up may have it; there is false where there is nothing any more.
	Again(slot int, operation string) (there bool, err error)
	// Withhold has the slot's next root be without what was saved before.
	Withhold(slot int, operation string) error
	// Release lets go of what is the operation's: where the root was renewed, what was
	// withheld is for people alone, for a while; else it waits as before. A root that is not new gets
	// nothing of it.
	Release(slot int, operation string, renewed bool) error
}

// A Swarm is what is asked of the controller's Docker Engine. *swarm.Engine is
// one.
type Swarm interface {
	Nodes(ctx context.Context) ([]swarm.Node, error)
	Node(ctx context.Context, id string) (swarm.Node, error)
	UpdateNode(ctx context.Context, id string, version uint64, spec swarm.NodeSpec) error
	RemoveNode(ctx context.Context, id string, force bool) error
	Tasks(ctx context.Context, node string) ([]swarm.Task, error)
	Services(ctx context.Context) ([]swarm.Service, error)
}

// ErrNothingWritten says that a slot has the root still that it is to go back to.
var ErrNothingWritten = errors.New("nothing was written: the slot has the root before still")

// ErrGone says that a node cannot be asked any more.
var ErrGone = errors.New("the node cannot be asked any more")

// A BusyError says that something is at work on a slot already.
type BusyError struct {
	Slot      string // p2
	Operation string // its ID
	Kind      Kind
	By        string
	Step      string
	Since     time.Time
}

func (e *BusyError) Error() string {
	by := ""
	if e.By != "" {
		by = " by " + e.By
	}
	return fmt.Sprintf("%s is busy: the %s %s%s is at work on it since %s (%s); `hatchery %s --follow %s` shows it, `hatchery %s --cancel %s` ends it",
		e.Slot, e.Kind.noun(), e.Operation, by, e.Since.Format("15:04:05"), e.Step, e.Kind.verb(), e.Operation, e.Kind.verb(), e.Operation)
}

// ErrBusy is matched by every BusyError.
var ErrBusy = errors.New("something is at work on the slot already")

// Is matches ErrBusy.
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

func (k Kind) noun() string { return string(k) }

// verb is the command that starts such an operation.
func (k Kind) verb() string {
	if k == Undo {
		return string(Upgrade)
	}
	return string(k)
}

// A RefusedError says why an operation is not begun, with the remedy.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// A Request is what somebody wants done.
type Request struct {
	Kind  Kind  `json:"kind"`
	Slots []int `json:"slots,omitempty"`
	// All is every slot of the cluster, of an upgrade those that have another
	// root to go to; Continue those that the last operation of this kind did not
	// get done.
	All      bool `json:"all,omitempty"`
	Continue bool `json:"continue,omitempty"`
	// Anew are the flags that somebody who continues has said anew, though they may be
	// off: "now". The others are as they were. It is over when the operation has begun.
	Anew []string `json:"-"`
	// Now does not wait until tasks have gone elsewhere; else they have
	// DrainTimeout (5 minutes). Going back, it needs no node that can be asked for what
	// it keeps.
	Now          bool          `json:"now,omitempty"`
	DrainTimeout time.Duration `json:"drain_timeout,omitempty"` // nanoseconds
	// MaxUnavailable is how many slots are at work side by side: 1 at the least.
	MaxUnavailable int `json:"max_unavailable,omitempty"`
	// Wait renews nothing: somebody puts new cards in, and they are waited for.
	Wait bool   `json:"wait,omitempty"`
	Keep bool   `json:"keep,omitempty"` // of a rebuild: save what outlives a root; an upgrade always does
	By   string `json:"by,omitempty"`   // who asks, for others
}

// An Operation is what is, or was, done with slots.
type Operation struct {
	ID      string     `json:"id"` // rebuild-12
	Request Request    `json:"request"`
	State   string     `json:"state"`
	Began   time.Time  `json:"began"`
	Ended   *time.Time `json:"ended,omitempty"`
	Error   string     `json:"error,omitempty"` // why it failed
	Slots   []Slot     `json:"slots"`
	// Healthy are the services that had their replicas when it began: their
	// names by their IDs.
	Healthy map[string]string `json:"healthy,omitempty"`
}

// Over says whether an operation has ended.
func (o *Operation) Over() bool {
	return o.State == Done || o.State == Failed || o.State == Cancelled
}

// A Slot is where an operation stands with one of its slots.
type Slot struct {
	Slot   int       `json:"slot"`
	Name   string    `json:"name"` // p1
	Step   string    `json:"step"`
	Part   string    `json:"part,omitempty"` // of the step, in the renewer's words
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"`
	Error  string    `json:"error,omitempty"`
	Notes  []string  `json:"notes,omitempty"` // what else somebody should know
	// Before is what the slot had before anything was done, nil until it is known.
	Before *Before `json:"before,omitempty"`
	// Boot is the node's boot when its root was about to be renewed.
	Boot string `json:"boot,omitempty"`
	// Roots, as a Plan names them: what it had before anything was done, what it goes to,
	// and what it goes back to if it does; "" where nobody knows.
	Had      string `json:"had,omitempty"`
	To       string `json:"to,omitempty"`
	Back     string `json:"back,omitempty"`
	Intact   bool   `json:"intact,omitempty"`   // the root that it goes back to comes with what it wrote
	Saved    bool   `json:"saved,omitempty"`    // what outlives the root is saved
	Renewed  bool   `json:"renewed,omitempty"`  // it was renewed, or that was begun
	Undone   bool   `json:"undone,omitempty"`   // it went back, or that was begun
	From     string `json:"from,omitempty"`     // the root that it went back from
	Left     bool   `json:"left,omitempty"`     // going back, nothing was to be written: its node was left alone
	Outcome  string `json:"outcome,omitempty"`  // the end that withdrawing leads to
	Returned bool   `json:"returned,omitempty"` // it has its availability back
}

// Before is what a slot's entry in the swarm had.
type Before struct {
	NodeID       string            `json:"node_id,omitempty"` // "": the slot had none
	Availability string            `json:"availability,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

func (s *Slot) over() bool {
	return s.Step == StepDone || s.Step == StepFailed || s.Step == StepCancelled
}

// view is what `hatchery status` shows of it.
func (s *Slot) view(o *Operation) *enrol.OperationView {
	v := &enrol.OperationView{ID: o.ID, Kind: string(o.Request.Kind), By: o.Request.By, Step: s.Step, Detail: s.Detail, Since: s.Since}
	if s.Part != "" {
		v.Step = s.Part
	}
	return v
}

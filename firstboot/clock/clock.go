// Package clock gives a node the right time. A Pi has no clock that runs while
// it is off: it wakes up at its image's build, or at its last shutdown, and by
// such a clock the swarm's certificates are not valid yet.
//
// A node asks its controller, over the one call that does not look at the
// dates of certificates (package enrol). Whatever is answered is taken only
// between the image's build, the floor, and a ceiling decades later; so no
// answer, and no mistake of the controller's, makes the clock go back to where
// certificates of its own time would not hold.
//
// The controller has nobody to ask. It waits until time servers have set its
// clock, or takes it as it is where the operator said so ([Trust]).
package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

const (
	// aside is a difference that is left alone, for timesyncd to smooth.
	aside = time.Second
	// asideSynchronized is what is left alone while time servers keep the
	// clock: they and an offline controller may disagree, and must not pull it
	// to and fro. Swarm certificates are dated back by an hour.
	asideSynchronized = 2 * time.Minute
	// span is how long after the build an image is thought to be used, in
	// years.
	span = 50
)

// earliest is before any image of hatchery's.
var earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// ErrImplausible is a time before the floor or after the ceiling.
var ErrImplausible = errors.New("the time cannot be right")

// A Source tells the time: *enrol.Client does.
type Source interface {
	Time(ctx context.Context) (enrol.Reading, error)
}

// Options is what may be set of the clock. Only Floor is needed on a node.
type Options struct {
	// Floor is the earliest time that is taken, [Floor] of the node's file.
	Floor time.Time
	// Ceiling is the latest; zero for 50 years after the floor.
	Ceiling time.Time
	// SetTime sets the clock; nil for the system's.
	SetTime func(time.Time) error
	// Now reads the clock that SetTime sets; nil for the system's.
	Now func() time.Time
	// Synchronized says whether time servers keep the clock; nil for
	// [Synchronized].
	Synchronized func() (bool, error)
	// Stepped is called after every step: connections whose certificates were
	// judged by the old time are made anew ((*enrol.Client).Reset).
	Stepped func()
	// Log is told every step; nil for nobody.
	Log *slog.Logger
}

// Floor is the earliest time that can be on a node: its image's build.
func Floor(n *nodefile.Node) time.Time {
	if floor := n.Floor(); floor.After(earliest) {
		return floor
	}
	return earliest
}

func (o Options) floor() time.Time {
	if o.Floor.After(earliest) {
		return o.Floor
	}
	return earliest
}

func (o Options) ceiling() time.Time {
	if o.Ceiling.IsZero() {
		return o.floor().AddDate(span, 0, 0)
	}
	return o.Ceiling
}

func (o Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

// A Result is what came of asking.
type Result struct {
	Offset    time.Duration // how far the clock was behind; negative: ahead
	RoundTrip time.Duration // the source's answer is half of it off at the most
	Stepped   bool          // the clock was set
}

// String is for people: "set forward by 3h0m0s".
func (r Result) String() string {
	switch {
	case r.Stepped && r.Offset < 0:
		return "set back by " + (-r.Offset).Round(time.Millisecond).String()
	case r.Stepped:
		return "set forward by " + r.Offset.Round(time.Millisecond).String()
	}
	return "right, as far as " + r.Offset.Abs().Round(time.Millisecond).String()
}

// Raise sets a clock that stands before the floor to the floor, and says
// whether it had to. It asks nobody: the clock is still wrong afterwards, but
// no longer so that nothing works.
func Raise(o Options) (bool, error) {
	floor, now := o.floor(), o.now()
	if !now.Before(floor) {
		return false, nil
	}
	if err := o.set(func() time.Time { return floor }); err != nil {
		return false, err
	}
	o.tell("clock raised to the image's build", "was", now, "floor", floor)
	return true, nil
}

// Sync asks the source for the time, and sets the clock by it where that is
// off: forward as far as it takes, back never below the floor.
func Sync(ctx context.Context, source Source, o Options) (Result, error) {
	if _, err := Raise(o); err != nil {
		return Result{}, err
	}
	reading, err := source.Time(ctx)
	if err != nil {
		return Result{}, err
	}
	at := reading.Now()
	switch floor, ceiling := o.floor(), o.ceiling(); {
	case at.Before(floor):
		return Result{}, fmt.Errorf("%w: the controller says %s, and this image was built at %s: set the controller's clock",
			ErrImplausible, at.Format(time.RFC3339), floor.UTC().Format(time.RFC3339))
	case at.After(ceiling):
		return Result{}, fmt.Errorf("%w: the controller says %s, which is after %s: set the controller's clock, or build the image again",
			ErrImplausible, at.Format(time.RFC3339), ceiling.UTC().Format(time.RFC3339))
	}
	was := o.now()
	result := Result{Offset: reading.Now().Sub(was), RoundTrip: reading.RoundTrip}
	leave, err := o.leave(reading)
	if err != nil {
		return result, err
	}
	if result.Offset.Abs() < leave {
		return result, nil
	}
	if err := o.set(reading.Now); err != nil {
		return result, err
	}
	if left := reading.Now().Sub(o.now()); left.Abs() >= aside {
		return result, fmt.Errorf("the clock was set to %s, and is off by %s again: something else sets it too",
			reading.Now().Format(time.RFC3339), left)
	}
	result.Stepped = true
	o.tell("clock set", "was", was, "offset", result.Offset, "round_trip", result.RoundTrip)
	return result, nil
}

// leave is the difference from which on the clock is set.
func (o Options) leave(reading enrol.Reading) (time.Duration, error) {
	synchronized := o.Synchronized
	if synchronized == nil {
		synchronized = Synchronized
	}
	by := aside
	ok, err := synchronized()
	if err != nil {
		return 0, fmt.Errorf("cannot ask the kernel whether time servers keep the clock: %w", err)
	}
	if ok {
		by = asideSynchronized
	}
	return by + reading.RoundTrip/2, nil
}

// set sets the clock to what a function says at that moment.
func (o Options) set(to func() time.Time) error {
	set := o.SetTime
	if set == nil {
		set = SetTime
	}
	if err := set(to()); err != nil {
		return fmt.Errorf("cannot set the clock: %w", err)
	}
	if o.Stepped != nil {
		o.Stepped()
	}
	return nil
}

func (o Options) tell(message string, args ...any) {
	if o.Log != nil {
		o.Log.Info(message, args...)
	}
}

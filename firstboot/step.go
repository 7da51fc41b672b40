package firstboot

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"hatchery/firstboot/waiting"
)

// A Step is one thing that a node needs. Its functions get a context that
// ends with the step's Limit, and may be called any number of times.
type Step struct {
	Name string
	// Needs names the steps that must be done before. Steps that do not need
	// each other run side by side.
	Needs []string
	// Check says whether the step is done, and how it stands. Where it is,
	// Run is not called. Where Run was called, Check has the last word. A
	// step without Check is one whose Run does nothing where nothing is to
	// be done.
	Check func(ctx context.Context) (done bool, detail string, err error)
	// Run does it. What it tells meanwhile is shown; the detail is how the
	// step stands afterwards. A *Waiting error says that its time has not
	// come, any other that it failed.
	Run func(ctx context.Context, tell Tell) (detail string, err error)
	// Every is how often a step that is done is gone through again, 0 for
	// never.
	Every time.Duration
	// Wake, where it is given, says that something changed: the step is gone
	// through again at once. It is called once; the channel is read until it
	// is closed or the agent ends.
	Wake func(ctx context.Context) <-chan struct{}
	// Limit is how long one go may take, DefaultLimit where it is 0.
	Limit time.Duration
}

// DefaultLimit is how long one go of a step may take unless it says otherwise.
const DefaultLimit = 5 * time.Minute

// Tell says what a step is doing, for people.
type Tell func(format string, args ...any)

// Waiting is the error of a step that cannot be done yet.
type Waiting = waiting.Error

// attempt goes through a step once. A panic is a failure like others: it must
// not end the steps that work.
func attempt(ctx context.Context, s *Step, tell Tell) (detail string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the agent has a mistake: %v\n%s", p, debug.Stack())
		}
	}()
	if s.Check != nil {
		done, detail, err := s.Check(ctx)
		if err != nil || done {
			return detail, err
		}
	}
	if detail, err = s.Run(ctx, tell); err != nil || s.Check == nil {
		return detail, err
	}
	done, how, err := s.Check(ctx)
	if err == nil && !done {
		err = fmt.Errorf("is not done although nothing failed: %s", how)
	}
	return how, err
}

// arrange checks that the steps can be gone through: names are there once,
// and no step needs one that comes after it.
func arrange(steps []Step) error {
	known := make(map[string]bool)
	for _, s := range steps {
		if s.Name == "" || s.Run == nil {
			return errors.New("a step has no name or nothing to do")
		}
		for _, need := range s.Needs {
			if !known[need] {
				return fmt.Errorf("step %s needs %s, which does not come before it", s.Name, need)
			}
		}
		if known[s.Name] {
			return fmt.Errorf("step %s is there twice", s.Name)
		}
		known[s.Name] = true
	}
	return nil
}

// Package waiting is how a step of the agent says that its time has not come.
package waiting

import (
	"fmt"
	"time"
)

// An Error is that of whoever has to wait, by nobody's fault: there is no
// carrier, the controller's clock is not right yet.
type Error struct {
	For   string        // for people: "the controller's swarm"
	After time.Duration // when to try again; 0: as after a failure
	Err   error         // what told so, if anything
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("waits for %s: %v", e.For, e.Err)
	}
	return "waits for " + e.For
}

func (e *Error) Unwrap() error { return e.Err }

package firstboot

import (
	"context"
	"testing"
	"time"

	"hatchery/internal/enrol"
)

// A refuser refuses every report.
type refuser struct {
	code  enrol.Code
	calls chan struct{}
}

func (r *refuser) Status(context.Context, enrol.StatusReport) (*enrol.StatusAnswer, error) {
	select {
	case r.calls <- struct{}{}:
	default:
	}
	return nil, &enrol.Error{Code: r.code, Detail: "no"}
}

// A node that the controller shuts out while all of its steps are done has to
// look at its membership again: its engine does not notice.
func TestRefusedReports(t *testing.T) {
	for code, shutOut := range map[enrol.Code]bool{
		enrol.Revoked: true, enrol.StaleGeneration: true, enrol.UnknownSlot: true, enrol.WrongAddress: true, enrol.Clone: true,
		enrol.ClockUntrusted: false, enrol.SwarmNotReady: false, enrol.BadRequest: false, "too-many-calls": false,
	} {
		t.Run(string(code), func(t *testing.T) {
			controller := &refuser{code: code, calls: make(chan struct{})}
			refusals := 0
			r := &reports{
				to: controller, ready: func(*State) bool { return true }, swarm: noSwarm, tell: func(announcement) {},
				refused: func() { refusals++ }, rejoin: func() { t.Error("the controller did not ask for a join") },
				intervals: Intervals{First: time.Millisecond, Most: time.Millisecond, Heartbeat: time.Millisecond}.orDefaults(),
				uptime:    func() time.Duration { return time.Second },
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			states, done := make(chan *State, 1), make(chan struct{})
			states <- &State{}
			go func() { defer close(done); r.run(ctx, states) }()
			for range 3 {
				<-controller.calls // the one before has been dealt with
			}
			close(states)
			cancel()
			<-done
			if (refusals > 0) != shutOut {
				t.Errorf("%d refusals had the membership looked at", refusals)
			}
		})
	}
}

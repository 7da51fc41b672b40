package firstboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hatchery/internal/enrol"
)

// reportLimit is how long one report may take. A TLS handshake takes a Zero
// seconds, and more while it configures packages.
const reportLimit = 45 * time.Second

// A reports tells the controller where the node stands: at every change, and
// as a heartbeat. What it could not tell in time is dropped for what is newer;
// nothing waits for it.
type reports struct {
	to        Reporter
	ready     func(*State) bool                          // whether the controller can be reached at all
	swarm     func(ctx context.Context) enrol.SwarmState // what the engine says
	rejoin    func()                                     // the controller wants the node to join again
	refused   func()                                     // the controller takes the node for none of its own (any more)
	tell      func(announcement)
	intervals Intervals
	uptime    func() time.Duration
}

// run goes on until states is closed or ctx ends.
func (r *reports) run(ctx context.Context, states <-chan *State) {
	var state *State
	var seq int64
	var sent time.Time
	failed, done := 0, 0
	told := ""
	beat := time.NewTimer(time.Hour)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case s, open := <-states:
			if !open {
				return
			}
			state = s
			// A step that was done may be the one that reaches the controller.
			was := done
			if done = s.done(); done > was {
				failed = 0
			}
			if failed > 0 {
				// What is new does not wait for the heartbeat, but it does
				// not hurry a controller that does not answer either.
				continue
			}
			if wait := r.intervals.First - time.Since(sent); wait > 0 && done <= was {
				// Much is new while packages are configured. A step that is
				// done is what the controller may wait for.
				beat.Reset(wait)
				continue
			}
		case <-beat.C:
		}
		if state == nil || !r.ready(state) {
			beat.Reset(r.intervals.Heartbeat)
			continue
		}
		// Rises over all runs of the agent in a boot: no agent sends two
		// reports in a microsecond, nor begins in the one in which another
		// ended.
		seq = max(seq+1, r.uptime().Microseconds())
		next := r.intervals.Heartbeat
		swarm, answer, err := r.report(ctx, state, seq)
		sent = time.Now()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			failed++
			next = r.intervals.pause(failed)
			var refused *enrol.Error
			event := EventUnheard
			if errors.As(err, &refused) {
				event = EventRefused
				next = max(next, refused.RetryAfter())
				if shutOut(refused.Code) {
					r.refused()
				}
			}
			if text := tidy(err.Error()); gist(text) != told {
				told = gist(text)
				r.tell(announcement{event: event, level: slog.LevelWarn, text: fmt.Sprintf("the controller does not take reports: %s", text)})
			}
		} else {
			failed, told = 0, ""
			if wanted := answer.Next(); wanted > 0 {
				next = min(next, wanted)
			}
			if join, ok := state.Of("join"); ok && join.State == enrol.StateDone && swarm.State != active {
				// Its engine is being started again: the controller, which
				// goes by what the engine says, is told soon that it is back.
				next = min(next, 3*r.intervals.First)
			}
			if answer.Rejoin {
				r.rejoin()
			}
		}
		beat.Reset(spread(next))
	}
}

// shutOut says that a refusal is about who the node is, and no matter of time.
func shutOut(code enrol.Code) bool {
	switch code {
	case enrol.Revoked, enrol.StaleGeneration, enrol.UnknownSlot, enrol.WrongAddress, enrol.Clone:
		return true
	}
	return false
}

// active is the state of an engine that is a member.
const active = "active"

func (r *reports) report(ctx context.Context, s *State, seq int64) (enrol.SwarmState, *enrol.StatusAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	swarm := r.swarm(ctx)
	answer, err := r.to.Status(ctx, enrol.StatusReport{
		BootID: s.BootID, Seq: seq, AgentVersion: s.AgentVersion,
		Step: s.Step, State: s.State, Detail: s.Detail, Since: s.Since,
		Swarm: swarm,
	})
	return swarm, answer, err
}

// noSwarm is for nodes of which nothing is known.
func noSwarm(context.Context) enrol.SwarmState { return enrol.SwarmState{} }

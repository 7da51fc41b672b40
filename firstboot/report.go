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
	to      Reporter
	ready   func(*State) bool                          // whether the controller can be reached at all
	swarm   func(ctx context.Context) enrol.SwarmState // what the engine says
	rejoin  func()                                     // the controller wants the node to join again
	refused func()                                     // the controller takes the node for none of its own (any more)
	// health is what the machine finds of itself; nil where nobody looks.
	health    func(ctx context.Context, s *State) *enrol.Health
	healthy   healthReports
	tell      func(announcement)
	build     string // what the node's image says that it is
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
		found := r.healthy.due(ctx, state, r.health)
		swarm, answer, err := r.report(ctx, state, seq, found)
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
			r.healthy.told(found)
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

func (r *reports) report(ctx context.Context, s *State, seq int64, found *enrol.Health) (enrol.SwarmState, *enrol.StatusAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	swarm := r.swarm(ctx)
	answer, err := r.to.Status(ctx, enrol.StatusReport{
		BootID: s.BootID, Seq: seq, AgentVersion: s.AgentVersion,
		Step: s.Step, State: s.State, Detail: s.Detail, Since: s.Since,
		Swarm: swarm, Health: found, Build: r.build,
	})
	return swarm, answer, err
}

// How often the machine's health is looked at, and told where nothing is new.
// A look takes a Zero some hundredths of a second.
const (
	healthLook  = time.Minute
	healthEvery = 5 * time.Minute
	// healthLimit is how long a look may wait for the engine.
	healthLimit = 10 * time.Second
)

// A healthReports says which reports have the machine's health.
type healthReports struct {
	look, every time.Duration // 0: healthLook, healthEvery
	looked      time.Time
	latest      *enrol.Health
	sent        time.Time
	gist        string // of the findings that were sent
}

// due gives what a report is to have of the machine's health: at the first, then
// when a finding is new or gone, and every now and then.
func (h *healthReports) due(ctx context.Context, s *State, collect func(context.Context, *State) *enrol.Health) *enrol.Health {
	if collect == nil {
		return nil
	}
	look, every := h.look, h.every
	if look <= 0 {
		look = healthLook
	}
	if every <= 0 {
		every = healthEvery
	}
	if h.latest == nil || time.Since(h.looked) >= look {
		ctx, cancel := context.WithTimeout(ctx, healthLimit)
		defer cancel()
		h.latest, h.looked = collect(ctx, s), time.Now()
	}
	if h.latest == nil || !h.sent.IsZero() && time.Since(h.sent) < every && gistOf(h.latest) == h.gist {
		return nil
	}
	return h.latest
}

// told notes that the controller has it.
func (h *healthReports) told(found *enrol.Health) {
	if found != nil {
		h.sent, h.gist = time.Now(), gistOf(found)
	}
}

// gistOf is what findings there are, without their numbers.
func gistOf(h *enrol.Health) string {
	text := ""
	for _, f := range h.Findings {
		text += f.Code + " " + gist(f.Detail) + "\n"
	}
	return text
}

// noSwarm is for nodes of which nothing is known.
func noSwarm(context.Context) enrol.SwarmState { return enrol.SwarmState{} }

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hatchery/imagebuilder/emulator"
)

// A bootWatch is a rig that runs, from its start to its end.
type bootWatch struct {
	*booting
	rig      bootRig
	goal     emulator.Goal
	guests   []emulator.Guest
	events   *bootEvents
	warnings []string
}

// Why a boot ends.
const (
	bootReached     = "reached"     // the goal
	bootTimeout     = "timeout"     // the goal was not reached in time
	bootInterrupted = "interrupted" // by ^C, before the goal
	bootGuest       = "guest"       // a guest cannot reach the goal
	bootFailed      = "failed"      // something else went wrong
)

// run waits until the guests have come to the goal, says how that went, and
// switches them off.
func (w *bootWatch) run(ctx context.Context) error {
	closing := sync.OnceValue(w.rig.Close)
	defer closing()
	if err := w.introduce(); err != nil {
		return err
	}
	view := w.view(w.goal)
	stop := show(view, w.events, w.rig.Status)
	defer stop()
	result := &bootResult{Goal: w.goal, SSHConfig: w.rig.SSHConfig(), Forwards: w.forwardViews(), Nodes: []swarmNode{}}
	err := w.wait(ctx)
	if err == nil {
		result.Reached, result.Reason = true, bootReached
		err = w.reached(ctx, result, func() { stop(); view.end(true) })
	} else {
		stop()
		result.Reason, err = w.missed(ctx, err)
		view.end(result.Reason != bootInterrupted)
	}
	result.Guests = w.rig.Status()
	if closed := closing(); err == nil && closed != nil {
		result.Reason, err = bootFailed, fmt.Errorf("cannot clean up after the guests: %w", closed)
	}
	if w.json {
		if err != nil {
			result.Error = err.Error()
		}
		if printed := w.printJSONLine("result", result); err == nil {
			err = printed
		}
	}
	return err
}

// wait waits for the goal, as long as that may take.
func (w *bootWatch) wait(ctx context.Context) error {
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	return w.rig.Wait(ctx, w.goal)
}

// errBootInterrupted is ^C before there is a result.
var errBootInterrupted = errors.New("interrupted; the guests are switched off")

// missed says why the goal was not reached.
func (w *bootWatch) missed(ctx context.Context, err error) (reason string, said error) {
	var guest *emulator.GuestError
	switch {
	case ctx.Err() != nil:
		return bootInterrupted, errBootInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return bootTimeout, w.timedOut()
	case errors.As(err, &guest):
		return bootGuest, guestEnd(guest)
	}
	return bootFailed, err
}

// reached tells what was reached, with the swarm's nodes where there is a swarm,
// and keeps the guests up where that is asked for.
func (w *bootWatch) reached(ctx context.Context, result *bootResult, hide func()) error {
	nodes, nodesErr := w.askSwarm(ctx, result)
	hide()
	if ctx.Err() != nil && !w.stay {
		result.Reason = bootInterrupted
		return errBootInterrupted
	}
	if !w.json {
		w.print(nodes, nodesErr)
	}
	if !w.stay || ctx.Err() != nil {
		return nil
	}
	var view bootView = noView{}
	switch {
	case w.json:
		result.Guests = w.rig.Status()
		if err := w.printJSONLine("reached", result); err != nil {
			return err
		}
		view = w.view(w.goal)
	case !w.quiet:
		fmt.Fprintln(w.command.ErrOrStderr(), "They stay up until ^C.")
		view = newLinesView(w.command.ErrOrStderr(), "")
	}
	stop := show(view, w.events, w.rig.Status)
	defer stop()
	if err := w.stayUp(ctx); err != nil {
		result.Reason = bootGuest
		return err
	}
	return nil
}

// stayUp waits until ^C, or until no guest is left; one that has crashed is an
// error then.
func (w *bootWatch) stayUp(ctx context.Context) error {
	tick := time.NewTicker(time.Second / 2)
	defer tick.Stop()
	for w.events.ended() < len(w.guests) {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	var guest *emulator.GuestError
	for _, s := range w.rig.Status() {
		if s.Phase == emulator.Off || ctx.Err() != nil {
			continue // somebody has switched it off
		}
		if err := w.rig.Wait(ctx, w.goal, s.Target); errors.As(err, &guest) {
			return guestEnd(guest)
		}
	}
	return nil
}

// withSwarm says whether a swarm is part of the goal.
func (w *bootWatch) withSwarm() (controller string, ok bool) {
	i := slices.IndexFunc(w.guests, func(g emulator.Guest) bool { return g.Slot == 0 })
	if i < 0 || w.goal != emulator.Ready {
		return "", false
	}
	return w.guests[i].Hostname, true
}

// askSwarm reads the swarm's list of nodes: as docker prints it for people, in
// parts for programs.
func (w *bootWatch) askSwarm(ctx context.Context, result *bootResult) (text string, err error) {
	controller, ok := w.withSwarm()
	if !ok {
		return "", nil
	}
	if w.json {
		text, err = w.swarm.ask(ctx, w.rig.SSHConfig(), controller, "--format", nodeFormat)
		if err == nil {
			var nodes []swarmNode
			if nodes, err = parseNodes(text); err == nil {
				result.Nodes = nodes
			}
		}
	} else {
		text, err = w.swarm.ask(ctx, w.rig.SSHConfig(), controller)
	}
	if err != nil {
		result.NodesError = err.Error()
	}
	return text, err
}

// forwardViews are the ports, as JSON has them.
func (w *bootWatch) forwardViews() []bootForwardView {
	views := []bootForwardView{}
	for _, f := range w.rig.Forwards() {
		views = append(views, bootForwardView(f))
	}
	return views
}

package founding

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// A Controller is another one of the cluster's: a *enrol.Client.
type Controller interface {
	Join(ctx context.Context, r enrol.JoinRequest) (*enrol.JoinAnswer, error)
}

// ErrOthers says that the swarm on this controller cannot be opened, and that none of
// the others has one that it could join.
var ErrOthers = errors.New("the swarm here cannot be opened, and no other controller tells of one: start the others; if they are lost for good, " +
	"`docker swarm init --force-new-cluster` on this controller makes it go on with what it has")

// ask asks the other controllers for their swarm, all at once: the first answer
// with a token counts. missing are those that did not answer at all.
func (g *going) ask(ctx context.Context) (answer *enrol.JoinAnswer, missing []string, err error) {
	type said struct {
		name   string
		answer *enrol.JoinAnswer
		err    error
	}
	names := slices.Sorted(maps.Keys(g.Others))
	answers := make(chan said, len(names))
	limited, cancel := context.WithTimeout(ctx, g.waits.Ask)
	defer cancel()
	for _, name := range names {
		go func() {
			a, err := g.Others[name].Join(limited, enrol.JoinRequest{
				BootID: g.BootID, AgentVersion: g.AgentVersion, Swarm: enrol.SwarmState{State: string(swarm.Inactive)},
			})
			answers <- said{name, a, err}
		}()
	}
	var refused []error
	for range names {
		s := <-answers
		var e *enrol.Error
		switch {
		case s.err == nil && s.answer.JoinToken != "":
			return s.answer, nil, nil
		case errors.As(s.err, &e) && e.Code != enrol.SwarmNotReady && e.Code != enrol.ClockUntrusted:
			// It has a say in this, and does not want this controller: no swarm is made
			// beside its own.
			refused = append(refused, fmt.Errorf("%s: %w", s.name, s.err))
		case s.err != nil && !errors.As(s.err, &e):
			missing = append(missing, s.name)
		}
	}
	slices.Sort(missing)
	return nil, missing, errors.Join(refused...)
}

// joinOthers joins the other controllers' swarm as a manager. Where none of them has
// one, the first controller goes on to make it, once they have had the time to
// answer; the others wait for it.
func (g *going) joinOthers(ctx context.Context) (joined bool, err error) {
	if g.alone.IsZero() {
		g.alone = time.Now()
	}
	for {
		answer, missing, err := g.ask(ctx)
		if err != nil {
			return false, fmt.Errorf("the other controllers do not let this one join: %w", err)
		}
		if answer != nil {
			return true, g.join(ctx, answer)
		}
		if !g.first() {
			return false, &Wait{For: "the swarm, which " + g.node.Controllers[0].Name + " makes, or any other controller has", After: 5 * g.waits.Poll}
		}
		passed := time.Since(g.alone)
		if len(missing) == 0 || passed >= g.waits.Grace {
			return false, nil
		}
		g.tell("asking the other controllers for the swarm: waiting for %s (at most %d s more)", strings.Join(missing, ", "), int((g.waits.Grace - passed).Seconds()))
		if err := g.pause(ctx); err != nil {
			return false, err
		}
	}
}

// first says that this is the controller that makes the swarm where there is none.
func (g *going) first() bool {
	own, _ := g.node.Own()
	return len(g.node.Controllers) == 0 || own.Name == g.node.Controllers[0].Name
}

// join has the engine join as a manager. What became of it the next look tells.
func (g *going) join(ctx context.Context, answer *enrol.JoinAnswer) error {
	o := swarm.JoinOptions{Addr: g.node.SwarmAddr(), Token: string(answer.JoinToken), Availability: "active"}
	for _, at := range answer.RemoteAddrs {
		if _, err := netip.ParseAddrPort(at); err == nil {
			o.Remotes = append(o.Remotes, at)
		}
	}
	if len(o.Remotes) == 0 {
		return errors.New("the other controllers do not say where the swarm is joined")
	}
	g.tell("joining the swarm of the other controllers at %s", strings.Join(o.Remotes, ", "))
	err := g.Engine.Join(ctx, o)
	if err != nil && !errors.Is(err, swarm.ErrJoinTimeout) && !errors.Is(err, swarm.ErrAlreadyMember) {
		return fmt.Errorf("cannot join the swarm of the other controllers: %w", err)
	}
	g.joined = true
	return nil
}

// yield gives up a swarm that cannot be opened, where the other controllers have
// it: this one joins it anew. Opening it by force would make another swarm of it,
// beside theirs.
func (g *going) yield(ctx context.Context, why error) error {
	answer, _, err := g.ask(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("the other controllers do not let this one join: %w", errors.Join(err, why))
	case answer == nil:
		return fmt.Errorf("%w: %w", ErrOthers, why)
	}
	return g.begin(stageAside, why)
}

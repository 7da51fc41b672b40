package controller

import (
	"context"
	"fmt"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// A standing is the swarm at one moment, as its manager sees it.
type standing struct {
	info  swarm.Info
	nodes []swarm.Node
	byID  map[string]swarm.Node
}

// notReady is the controller's engine, not being an active manager (yet).
type notReady struct{ info swarm.Info }

func (e *notReady) Error() string {
	switch {
	case e.info.State == swarm.Active && !e.info.Manager:
		return "the controller's engine is a worker of some swarm: `docker swarm leave` on the controller lets it make its own"
	case e.info.Error != "":
		return fmt.Sprintf("the controller's swarm is %s: %s", e.info.State, e.info.Error)
	}
	return fmt.Sprintf("the controller's swarm is %s, not active yet", e.info.State)
}

func fetchStanding(engine Engine) func(context.Context) (*standing, error) {
	return func(ctx context.Context) (*standing, error) {
		info, err := engine.Info(ctx)
		if err != nil {
			return nil, err
		}
		st := &standing{info: info}
		if info.State != swarm.Active || !info.Manager {
			return st, &notReady{info}
		}
		if st.nodes, err = engine.Nodes(ctx); err != nil {
			return st, err
		}
		st.byID = make(map[string]swarm.Node, len(st.nodes))
		for _, n := range st.nodes {
			st.byID[n.ID] = n
		}
		return st, nil
	}
}

// swarmState is the controller's own membership, for the view.
func (st *standing) swarmState(err error) enrol.SwarmState {
	if st == nil {
		return enrol.SwarmState{Error: err.Error()}
	}
	s := enrol.SwarmState{State: string(st.info.State), NodeID: st.info.NodeID, ClusterID: st.info.ClusterID, Error: st.info.Error}
	if s.Error == "" && err != nil {
		s.Error = err.Error()
	}
	return s
}

// standingSince is the swarm as it was at a moment or later, or the error that
// a node is told.
func (s *service) standingSince(ctx context.Context, moment time.Time) (*standing, *enrol.Error) {
	st, err := s.swarm.since(ctx, moment)
	if err != nil {
		return nil, &enrol.Error{Code: enrol.SwarmNotReady, Detail: err.Error(), RetryAfterS: retrySwarmS}
	}
	return st, nil
}

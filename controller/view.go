package controller

import (
	"context"
	"maps"
	"slices"
	"time"

	"hatchery/internal/enrol"
)

// viewAge is how old the list of nodes in a view may be.
const viewAge = 2 * time.Second

// view is what `hatchery status` shows.
func (s *service) view(ctx context.Context) *enrol.ClusterView {
	now := time.Now()
	source, ok, err := s.Clock(ctx)
	if !ok || err != nil || source == "" {
		source = enrol.TimeUntrusted
	}
	st, err := s.swarm.since(ctx, now.Add(-viewAge))
	v := &enrol.ClusterView{
		Cluster: s.Node.Cluster, Time: now.UTC(), TimeSource: source,
		Swarm: st.swarmState(err), Slots: []enrol.SlotView{},
	}
	v.ClusterID = v.Swarm.ClusterID
	if s.Backups != nil {
		v.Backup = s.Backups.View()
	}
	if s.Health != nil {
		v.Health = s.Health()
		health(v.Health)
	}
	if s.Workloads != nil {
		v.Workloads = s.Workloads()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(s.slots)) {
		v.Slots = append(v.Slots, s.slots[number].view(st, now))
	}
	// Of the slots of other HATs this service knows what the swarm says.
	for i := range v.Slots {
		if v := &v.Slots[i]; s.slots[v.Slot].foreign() && v.NodeState == "" && st != nil {
			for _, n := range st.nodes {
				if n.Labels[labelSlot] == v.Name && (v.NodeState == "" || n.State == nodeReady) {
					v.NodeID, v.NodeState, v.Availability, v.Labels = n.ID, n.State, n.Availability, n.Labels
				}
			}
		}
	}
	v.Alarms = slices.Clone(s.registry.Alarms)
	if s.Beside != nil {
		for i := range v.Slots {
			s.Beside(&v.Slots[i])
		}
	}
	return v
}

func (s *slot) view(st *standing, now time.Time) enrol.SlotView {
	v := enrol.SlotView{
		Slot: s.target.Slot, Name: s.target.Name, Hostname: s.target.Hostname, Model: s.target.Model,
		Generation: s.Generation, MinGeneration: s.minGeneration(), BootID: s.BootID,
		AgentVersion: s.report.AgentVersion, Step: s.report.Step, State: s.report.State, Detail: s.report.Detail,
		NodeID: s.NodeID, Root: s.target.Root, Health: s.health,
	}
	if !s.reported.IsZero() {
		// By the clock as it is now, whatever it was when the report came.
		seen := now.Add(-now.Sub(s.reported)).Round(0).UTC()
		v.LastSeen = &seen
	}
	if s.refused != nil {
		v.Refused = s.refused.Error()
	}
	if st != nil {
		if n, listed := st.byID[s.NodeID]; listed {
			v.NodeState, v.Availability, v.Labels = n.State, n.Availability, n.Labels
		}
	}
	return v
}

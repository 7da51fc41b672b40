package netboot

import (
	"maps"
	"slices"

	"hatchery/netboot/nbd"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// A View is where everything stands, for people and programs.
type View struct {
	Slots    []SlotView `json:"slots"`
	Wiring   string     `json:"wiring,omitempty"`   // which USB path is which slot's
	Power    bool       `json:"power"`              // the slots can be switched from here
	Problems []string   `json:"problems,omitempty"` // what a person should know
}

// A SlotView is where one slot stands.
type SlotView struct {
	slots.Status
	Number   int               `json:"number"`
	Hostname string            `json:"hostname"`
	Mode     store.Mode        `json:"mode,omitempty"` // off, netboot, ephemeral
	Current  *store.Generation `json:"current,omitempty"`
	Next     *store.Root       `json:"next,omitempty"`
	Previous *store.Generation `json:"previous,omitempty"`
	Disk     *DiskView         `json:"disk,omitempty"` // while it is open
	Root     *nbd.Counters     `json:"root,omitempty"` // what was done with it since the service began
	Problem  string            `json:"problem,omitempty"`
}

// A DiskView is a slot's disk; sizes are in bytes.
type DiskView struct {
	Size       int64  `json:"size"`
	Stored     int64  `json:"stored"` // for the slot alone
	Quota      int64  `json:"quota,omitempty"`
	Unsaved    int64  `json:"unsaved"`     // since the last flush
	WriteBytes int64  `json:"write_bytes"` // by the node, since the disk was opened
	CardBytes  int64  `json:"card_bytes"`  // to the controller's card, since then
	Refused    int64  `json:"refused"`     // writes for which there was no room
	FlushError string `json:"flush_error,omitempty"`
}

// View tells where everything stands.
func (s *Service) View() *View {
	v := &View{Power: s.o.Power != nil, Slots: []SlotView{}}
	s.mu.Lock()
	if s.wiring != nil {
		v.Wiring = s.wiring.String()
	}
	for _, subject := range slices.Sorted(maps.Keys(s.problems)) {
		v.Problems = append(v.Problems, s.problems[subject])
	}
	s.mu.Unlock()
	counters := s.server.Counters()
	for _, status := range s.board.All() {
		v.Slots = append(v.Slots, s.slotView(status, counters))
	}
	return v
}

func (s *Service) slotView(status slots.Status, counters map[string]nbd.Counters) SlotView {
	v := SlotView{Status: status}
	for _, sl := range s.slots {
		if sl.name() != status.Slot {
			continue
		}
		v.Number, v.Hostname = sl.number, sl.target.Hostname
		state, err := s.o.Store.State(sl.number)
		if err != nil {
			v.Problem = err.Error()
		} else {
			v.Mode, v.Current, v.Next, v.Previous = state.Mode, state.Current, state.Next, state.Previous
		}
		if c, ok := counters[sl.name()]; ok {
			v.Root = &c
		}
		v.Disk = sl.diskView()
		if v.Problem == "" {
			v.Problem = sl.broken
		}
	}
	return v
}

func (sl *slot) diskView() *DiskView {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.disk == nil {
		return nil
	}
	d := sl.disk.Stats()
	v := &DiskView{
		Size: d.Size, Stored: d.Stored, Quota: d.Quota, Unsaved: d.Unsaved,
		WriteBytes: d.WriteBytes, CardBytes: d.CardBytes, Refused: d.Refused,
	}
	if d.FlushError != nil {
		v.FlushError = d.FlushError.Error()
	}
	return v
}

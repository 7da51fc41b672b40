package slots

import (
	"time"

	"hatchery/internal/clusterctrl"
)

// Status is where a slot stands, for people and programs. Its times are the
// wall clock's as it is when the status is taken, reckoned from ages by the
// monotonic clock, so that they fit each other after the clock was set.
type Status struct {
	Slot     string        `json:"slot"` // p1
	State    State         `json:"state"`
	Lost     string        `json:"lost,omitempty"`   // of lost: link or nbd
	Reason   string        `json:"reason,omitempty"` // of failed; else of the power cycle that NextTry announces
	Detail   string        `json:"detail,omitempty"` // in words
	Since    time.Time     `json:"since"`
	For      time.Duration `json:"for_ns"`
	Power    Supply        `json:"power"`
	Enabled  bool          `json:"enabled"` // power cycled when stuck
	Progress *Progress     `json:"progress,omitempty"`
	Tries    int           `json:"tries"` // power cycles since it was stable
	MaxTries int           `json:"max_tries"`
	NextTry  *time.Time    `json:"next_try,omitempty"` // of a pause between power cycles: its end
	// LastReady is when its agent last said so, Boot how long the last boot
	// from power to ready took; nil and 0 are never, since the service began.
	LastReady *time.Time    `json:"last_ready,omitempty"`
	Boot      time.Duration `json:"boot_ns,omitempty"`
	Boots     uint64        `json:"boots"`
	Cycles    uint64        `json:"cycles"`
	Events    []Entry       `json:"events"` // the last 20, oldest first
}

// Progress is how far the boot files are.
type Progress struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"` // of File, sent
	Total int64  `json:"total"` // of File
	Files int    `json:"files"` // asked for so far, this one included
	Sum   int64  `json:"sum"`   // bytes of all files, sent
}

// Entry is a line of a slot's history: what was seen, and the state after it.
type Entry struct {
	At    time.Time `json:"at"`
	State State     `json:"state"`
	Text  string    `json:"text"`
}

// status is taken at now; wall is the same moment's wall clock.
func (s *slot) status(l Limits, now time.Time) Status {
	wall := now.Round(0)
	then := func(t time.Time) time.Time { return wall.Add(t.Sub(now)) }
	st := Status{
		Slot: clusterctrl.SlotName(s.Slot), State: s.State, Detail: s.detail(),
		Since: then(s.Since), For: now.Sub(s.Since), Power: s.Supply, Enabled: s.Enabled,
		Tries: s.Tries, MaxTries: len(l.Pauses), Boot: s.upAfter, Boots: s.count.Boots, Cycles: s.count.Cycles,
		Events: make([]Entry, 0, len(s.history)),
	}
	switch {
	case s.State == Lost:
		st.Lost = s.What
	case s.State == Failed:
		st.Reason = s.What
	case s.isAt(Files, rescueFiles):
		st.Progress = &Progress{s.File, s.Sent, s.Size, s.files, s.sum}
	}
	if d := l.Decide(s.Standing, now); d.Action == Nothing && d.Reason != "" {
		next := then(d.Next)
		st.Reason, st.NextTry = clean(d.Reason), &next
	}
	if !s.last.IsZero() {
		last := then(s.last)
		st.LastReady = &last
	}
	for _, e := range s.history {
		st.Events = append(st.Events, Entry{then(e.at), e.state, e.text})
	}
	return st
}

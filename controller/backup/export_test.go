package backup

import "time"

// A Schedule is one to be tested.
type Schedule struct{ s schedule }

func NewSchedule(t Times) *Schedule       { return &Schedule{schedule{times: t}} }
func (s *Schedule) Changed(now time.Time) { s.s.changed(now) }
func (s *Schedule) Hurry(now time.Time)   { s.s.hurry(now) }
func (s *Schedule) Done(now time.Time)    { s.s.done(now) }
func (s *Schedule) Failed(now time.Time)  { s.s.failed(now) }
func (s *Schedule) Due() time.Time        { return s.s.due() }
func (t Times) WithDefaults() Times       { return t.withDefaults() }

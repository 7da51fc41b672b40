package backup

import "time"

// A schedule says when the next backup is due. Its times come from time.Now
// and are compared by the monotonic clock.
type schedule struct {
	times Times
	first time.Time // change since the last backup
	last  time.Time // change since the last backup
	soon  time.Time // when Soon was called since the last backup
	taken time.Time // the last backup
	retry time.Time // not before: the last try failed
}

func (s *schedule) changed(now time.Time) {
	if s.first.IsZero() {
		s.first = now
	}
	s.last = now
}

func (s *schedule) hurry(now time.Time) {
	if s.soon.IsZero() {
		s.soon = now
	}
}

// done notes that a backup was begun at a time, with success.
func (s *schedule) done(now time.Time) { *s = schedule{times: s.times, taken: now} }

// failed notes that there is none yet.
func (s *schedule) failed(now time.Time) { s.retry = now.Add(s.times.Retry) }

// due is when the next backup is to be taken, the zero time for never.
func (s *schedule) due() time.Time {
	var due time.Time
	if !s.last.IsZero() {
		due = s.last.Add(s.times.Quiet)
		// A swarm that is never quiet is backed up nevertheless.
		if most := s.first.Add(s.times.Most); most.Before(due) {
			due = most
		}
		if most := s.taken.Add(s.times.Most); !s.taken.IsZero() && most.After(due) {
			due = most
		}
	}
	if !s.soon.IsZero() {
		if soon := s.soon.Add(s.times.Soon); due.IsZero() || soon.Before(due) {
			due = soon
		}
	}
	if !due.IsZero() && s.retry.After(due) {
		due = s.retry
	}
	return due
}

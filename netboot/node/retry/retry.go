// Package retry says when something is tried again, and when somebody who
// reads the console is told once more what is waited for.
package retry

import "time"

// A Policy is how the pauses between attempts grow: from First on, doubled each
// time, up to Longest. There is no last attempt.
type Policy struct{ First, Longest time.Duration }

// Pause is the pause after an attempt, which are counted from 1.
func (p Policy) Pause(attempt int) time.Duration {
	pause := p.First
	for ; attempt > 1 && pause < p.Longest; attempt-- {
		pause *= 2
	}
	return min(pause, p.Longest)
}

// A Teller says when what is waited for is told again: at once, then at growing
// intervals (5, 10, 20, … seconds) up to Longest, and at once where the words
// have changed, but not more often than a second.
type Teller struct {
	Longest time.Duration // a minute, if 0

	last  time.Duration
	pause time.Duration
	words string
	told  bool
}

// Tell says whether words are told, after so long a wait.
func (t *Teller) Tell(waited time.Duration, words string) bool {
	longest := t.Longest
	if longest == 0 {
		longest = time.Minute
	}
	since := waited - t.last
	switch {
	case !t.told:
		t.pause = 5 * time.Second
	case words != t.words && since >= time.Second:
	case since >= t.pause:
		t.pause = min(2*t.pause, longest)
	default:
		return false
	}
	t.told, t.last, t.words = true, waited, words
	return true
}

package power

import "time"

// Limits are how long is waited for what, and how often something is tried. Of
// each, zero is [DefaultLimits].
type Limits struct {
	// Lost is how long neither a node's link nor its entry in the swarm is there
	// before its slot is power-cycled: a reboot is over by then.
	Lost time.Duration
	// Boot is how long a node may take after a power cycle before the next.
	Boot time.Duration
	// Cycles is how many power cycles there are at most, until the node was
	// ready for the time of Stable.
	Cycles int
	Stable time.Duration
	// OffFor is how long the power is off in a power cycle.
	OffFor time.Duration
	// Poll is how often it is looked.
	Poll time.Duration
	// Shutdown is how long a node that was asked to shut down may take, and Settle how
	// long after its link went it may still write to its card.
	Shutdown, Settle time.Duration
	// Tries is how often a slot is tried to be switched on when the controller
	// has booted.
	Tries int
}

// DefaultLimits are generous: no figures of real boots stand behind them.
func DefaultLimits() Limits {
	return Limits{
		Lost: 5 * time.Minute, Boot: 10 * time.Minute, Cycles: 3, Stable: 15 * time.Minute,
		OffFor: 3 * time.Second, Poll: 5 * time.Second,
		Shutdown: 90 * time.Second, Settle: 5 * time.Second, Tries: 3,
	}
}

// filled are the limits with the defaults in place of zeros.
func (l Limits) filled() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ have, initial *time.Duration }{
		{&l.Lost, &d.Lost}, {&l.Boot, &d.Boot}, {&l.Stable, &d.Stable}, {&l.OffFor, &d.OffFor},
		{&l.Poll, &d.Poll}, {&l.Shutdown, &d.Shutdown}, {&l.Settle, &d.Settle},
	} {
		if *f.have <= 0 {
			*f.have = *f.initial
		}
	}
	if l.Cycles <= 0 {
		l.Cycles = d.Cycles
	}
	if l.Tries <= 0 {
		l.Tries = d.Tries
	}
	return l
}

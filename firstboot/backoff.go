package firstboot

import (
	"math/rand/v2"
	"time"
)

// Intervals is how long the agent waits for what. Zero fields are the
// defaults.
type Intervals struct {
	First     time.Duration // before the second try of a step: 1 s; doubled for every further one
	Most      time.Duration // between two tries: 60 s
	Check     time.Duration // between two checks of what is done: 60 s
	Heartbeat time.Duration // between two reports to the controller: 20 s
	Time      time.Duration // between two looks at the controller's clock: 1 h
	// Stuck is how much longer than its limit a step may take to end: 1 min.
	// One that does not (a driver that hangs in the kernel) keeps the watchdog
	// from being told that all is well.
	Stuck time.Duration
}

func (i Intervals) orDefaults() Intervals {
	set := func(d *time.Duration, standard time.Duration) {
		if *d <= 0 {
			*d = standard
		}
	}
	set(&i.First, time.Second)
	set(&i.Most, time.Minute)
	set(&i.Check, time.Minute)
	set(&i.Heartbeat, 20*time.Second)
	set(&i.Time, time.Hour)
	set(&i.Stuck, time.Minute)
	return i
}

// pause is how long to wait after so many tries in a row that failed. It is
// never the same twice: 252 nodes that failed together must not try together.
func (i Intervals) pause(tries int) time.Duration {
	d := i.First
	for n := 1; n < tries && d < i.Most; n++ {
		d *= 2
	}
	return spread(min(d, i.Most))
}

// spread gives a duration between three quarters and five quarters of d.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d - d/4 + rand.N(d/2+1)
}

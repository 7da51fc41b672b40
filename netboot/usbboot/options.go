package usbboot

import "time"

// Limits are how long a device may take, and how much it may ask. A zero field
// stands for its default.
type Limits struct {
	Announce time.Duration // a length to be taken; 1 s
	Bulk     time.Duration // 16 KiB to be taken; 5 s
	Status   time.Duration // the boot ROM's answer to bootcode.bin; 20 s
	Idle     time.Duration // the next question; 30 s
	Probe    time.Duration // a question of a device that may have changed its stage unnoticed; 2 s
	Total    time.Duration // the whole attachment; 10 min
	Requests int           // questions in one attachment; 10,000
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field    *time.Duration
		standard time.Duration
	}{
		{&l.Announce, time.Second},
		{&l.Bulk, 5 * time.Second},
		{&l.Status, 20 * time.Second},
		{&l.Idle, 30 * time.Second},
		{&l.Probe, 2 * time.Second},
		{&l.Total, 10 * time.Minute},
	} {
		if *d.field <= 0 {
			*d.field = d.standard
		}
	}
	if l.Requests <= 0 {
		l.Requests = 10_000
	}
	return l
}

// Options of [Serve].
type Options struct {
	// Told hears what happens, in order, from the goroutine that serves: it must
	// not block. May be nil.
	Told   func(Event)
	Limits Limits
}

package slots

import "time"

// Limits are how long a slot may stay where it is, and what is done then. A
// zero Limits is [DefaultLimits]; of others, zeros are taken from there.
type Limits struct {
	Unknown  time.Duration // with power, but unheard of, since the board began; nothing found running is cycled before
	ROM      time.Duration // from power to the boot ROM on USB
	Bootcode time.Duration // from the boot ROM to the second stage
	Files    time.Duration // without any byte of a boot file being sent
	Link     time.Duration // from the last boot file to the network link
	Root     time.Duration // from the link to the root's connection
	Boot     time.Duration // from power to the root's connection, on whatever ways
	Agent    time.Duration // from the root's connection to the agent's first word: a first boot sets Docker up
	LostLink time.Duration // without the link; a reboot is over by then
	LostNBD  time.Duration // without the root's connection but with the link: nodes reconnect by themselves
	Reboots  int           // boots without being ready in between
	Stable   time.Duration // ready for so long, a slot has its tries back

	// Pauses are what lies at least between power cycles: before the first,
	// the second, and so on. After as many the slot is failed.
	Pauses []time.Duration
	OffFor time.Duration // how long the power is off in a power cycle
	Poll   time.Duration // how often it is looked whether somebody else switched the power
}

// DefaultLimits are generous where a Zero's speed is not known: no figures of
// real boots stand behind them.
func DefaultLimits() Limits {
	return Limits{
		Unknown:  5 * time.Minute,
		ROM:      10 * time.Second,
		Bootcode: 15 * time.Second,
		Files:    20 * time.Second,
		Link:     90 * time.Second,
		Root:     time.Minute,
		Boot:     10 * time.Minute,
		Agent:    30 * time.Minute,
		LostLink: 2 * time.Minute,
		LostNBD:  15 * time.Minute,
		Reboots:  5,
		Stable:   5 * time.Minute,
		Pauses:   []time.Duration{0, time.Minute, 5 * time.Minute},
		OffFor:   3 * time.Second,
		Poll:     5 * time.Second,
	}
}

// filled are the limits with the defaults in place of zeros.
func (l Limits) filled() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ have, initial *time.Duration }{
		{&l.Unknown, &d.Unknown}, {&l.ROM, &d.ROM}, {&l.Bootcode, &d.Bootcode}, {&l.Files, &d.Files},
		{&l.Link, &d.Link}, {&l.Root, &d.Root}, {&l.Boot, &d.Boot}, {&l.Agent, &d.Agent},
		{&l.LostLink, &d.LostLink}, {&l.LostNBD, &d.LostNBD}, {&l.Stable, &d.Stable}, {&l.OffFor, &d.OffFor}, {&l.Poll, &d.Poll},
	} {
		if *f.have <= 0 {
			*f.have = *f.initial
		}
	}
	if l.Reboots <= 0 {
		l.Reboots = d.Reboots
	}
	if l.Pauses == nil {
		l.Pauses = d.Pauses
	}
	return l
}

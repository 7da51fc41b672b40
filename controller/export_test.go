package controller

import (
	"time"

	"hatchery/internal/nodefile"
)

// MaxPerAddress is how many connections one address may have.
const MaxPerAddress = maxPerAddress

// Voices judges who speaks for a slot.
type Voices struct{ *slot }

// NewVoices has heard nobody.
func NewVoices() Voices {
	return Voices{newSlot(nodefile.Target{Name: "p1", Slot: 1}, &record{}, time.Time{})}
}

// Hear gives "speaks", "waits" or "cloned", with a ! where the challenger is
// refuted.
func (v Voices) Hear(boot string, sameNode, ready bool, now time.Time) string {
	who, disproved := v.hear(boot, sameNode, ready, now, time.Minute)
	word := [...]string{speaks: "speaks", waits: "waits", cloned: "cloned"}[who]
	if disproved {
		word += "!"
	}
	return word
}

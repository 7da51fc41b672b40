package controller

import (
	"context"
	"encoding/json"
	"net/http"
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

// ParseRegistry reads a registry, and gives it as it would be written.
func ParseRegistry(data []byte) ([]byte, error) {
	r, err := parseRegistry(data)
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// Calls is what nodes may call of a service that does not run, and what has
// its list of nodes looked through.
func Calls(o Options) (http.Handler, func(context.Context) error, error) {
	if err := o.check(); err != nil {
		return nil, nil, err
	}
	s, err := newService(o)
	if err != nil {
		return nil, nil, err
	}
	return s.nodeCalls(), s.settleAll, nil
}

// ErrorAge is how long an error is passed on.
const ErrorAge = errorAge

// Fresh gives what shares the fetching of a number.
func Fresh(fetch func(context.Context) (int, error)) func(context.Context, time.Time) (int, error) {
	return newFresh(fetch).since
}

package slots_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"hatchery/netboot/slots"
)

// hat is the power of some slots, with faults.
type hat struct {
	mu     sync.Mutex
	on     map[int]bool
	broken map[string]error // by what is asked: on, off, powered
	said   func(string)
	cut    map[int]int // how often it was switched off
}

func newHat(said func(string)) *hat {
	return &hat{on: make(map[int]bool), broken: make(map[string]error), cut: make(map[int]int), said: said}
}

func (h *hat) On(ctx context.Context, n int) error  { return h.set(n, "on", true) }
func (h *hat) Off(ctx context.Context, n int) error { return h.set(n, "off", false) }

func (h *hat) set(n int, what string, on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.broken[what]; err != nil {
		h.said("HAT: " + what + " fails")
		return err
	}
	if !on {
		h.cut[n]++
	}
	h.on[n] = on
	h.said("HAT: " + what)
	return nil
}

func (h *hat) Powered(ctx context.Context, n int) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on[n], h.broken["powered"]
}

func (h *hat) breaks(what string, broken bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.broken, what)
	if broken {
		h.broken[what] = errors.New("the expander at 0x20 does not answer")
	}
}

// outside is somebody who switches a slot without the board.
func (h *hat) outside(n int, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.on[n] = on
}

// has says whether a slot has power.
func (h *hat) has(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on[n]
}

// lines turns log records of state changes into lines.
type lines struct{ said func(string) }

func (l lines) Enabled(context.Context, slog.Level) bool { return true }
func (l lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l lines) WithGroup(string) slog.Handler            { return l }
func (l lines) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "slot" {
		return nil
	}
	a := map[string]string{}
	r.Attrs(func(attr slog.Attr) bool { a[attr.Key] = attr.Value.String(); return true })
	l.said(fmt.Sprintf("%s → %s: %s", a["was"], a["state"], a["why"]))
	return nil
}

// stamp is how far a test is, to the tenth of a second.
func stamp(begin time.Time) string {
	return time.Since(begin).Truncate(100 * time.Millisecond).String()
}

var _ slots.Power = (*hat)(nil)

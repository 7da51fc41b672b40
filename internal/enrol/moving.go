package enrol

import (
	"errors"
	"net/http"
	"time"
)

// stall is how long an answer may stand still on its way.
const stall = time.Minute

// movingPart is how much of an answer has that time: even a link of 60 kB/s takes it in a
// moment.
const movingPart = 32 << 10

// A Moving is an answer that may take its time, but not stand still. [Moving.End] ends it.
type Moving struct {
	http.ResponseWriter
	controller *http.ResponseController
	stall      time.Duration
}

// NewMoving begins one.
func NewMoving(w http.ResponseWriter) *Moving {
	return &Moving{w, http.NewResponseController(w), stall}
}

// Write writes in parts, each of which has its time.
func (m *Moving) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		if err := m.within(m.stall); err != nil {
			return n, err
		}
		k, err := m.ResponseWriter.Write(p[:min(len(p), movingPart)])
		n += k
		if err != nil {
			return n, err
		}
		p = p[k:]
	}
	return n, nil
}

// End sends what is left, and lets the connection go on to its next call.
func (m *Moving) End() {
	if m.within(m.stall) == nil {
		_ = m.controller.Flush() // who asked has gone, or has it all
	}
	_ = m.controller.SetWriteDeadline(time.Time{})
}

func (m *Moving) within(d time.Duration) error {
	err := m.controller.SetWriteDeadline(time.Now().Add(d))
	if errors.Is(err, http.ErrNotSupported) {
		return nil // as of a test's recorder
	}
	return err
}

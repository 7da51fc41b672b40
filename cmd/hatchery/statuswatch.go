package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8/cwriter"

	"hatchery/controller"
	"hatchery/internal/enrol"
)

// How often a watched status is looked at, and how long one look may take.
const (
	lookEvery = time.Second
	lookTime  = 15 * time.Second
)

// watchStatus shows the cluster until ctx ends, which is no error, or nobody is
// there any more to read it. A service that goes away once it was seen is waited
// for: it may be begun again.
func watchStatus(ctx context.Context, out io.Writer, asJSON bool, view func(context.Context) (*enrol.ClusterView, error)) error {
	var show statusView = &statusChanges{out: out}
	if asJSON {
		show = &statusObjects{out: json.NewEncoder(out)}
	} else if f := fileOf(out); f != nil && os.Getenv("TERM") != "dumb" {
		if w := cwriter.New(f); w.IsTerminal() {
			show = &statusScreen{w: w}
		}
	}
	gone := readerGone(ctx, fileOf(out))
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for seen := false; ; {
		asking, cancel := context.WithTimeout(ctx, lookTime)
		v, err := view(asking)
		cancel()
		var refused *enrol.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			seen = true
			err = show.view(v)
		case !seen || errors.As(err, &refused):
			return err
		default:
			err = show.trouble(err)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
			return nil
		case <-tick.C:
		}
	}
}

// A statusView shows a view after the other.
type statusView interface {
	view(v *enrol.ClusterView) error
	trouble(err error) error // there is no view now
}

// statusScreen redraws it in place.
type statusScreen struct {
	w    *cwriter.Writer
	last *enrol.ClusterView
}

func (s *statusScreen) view(v *enrol.ClusterView) error {
	s.last = v
	return s.draw("")
}

// trouble shows what was last seen, and what is wrong.
func (s *statusScreen) trouble(err error) error {
	return s.draw(awaited(err))
}

func (s *statusScreen) draw(note string) error {
	columns, rows, err := s.w.GetTermSize()
	if err != nil || columns <= 0 || rows <= 0 {
		columns, rows = 80, 24
	}
	// The last line stays free, for the cursor; and a line that is broken by the
	// terminal would be two when it is to be redrawn.
	columns, rows = max(columns-1, 1), max(rows-1, 1)
	lines := statusLines(s.last, columns)
	if note != "" {
		lines = append(wrapped(oneLine(note), columns, 2), lines...)
	}
	if len(lines) > rows {
		hidden := len(lines) - rows + 1
		lines = append(lines[:rows-1], shorten(fmt.Sprintf("… and %s; the terminal has no more", plural(hidden, "1 line", "%d lines")), columns))
	}
	for _, line := range lines {
		fmt.Fprintln(s.w, line)
	}
	return s.w.Flush(len(lines))
}

// awaited says that the service is gone for now.
func awaited(err error) string {
	if errors.Is(err, controller.ErrNotServed) {
		return "The service does not run at the moment: it is waited for. This is how it was:"
	}
	return "The service does not answer: " + err.Error() + ". This is how it was:"
}

// statusChanges prints it again when it has changed.
type statusChanges struct {
	out  io.Writer
	said []byte
	away bool
}

func (s *statusChanges) view(v *enrol.ClusterView) error {
	is := changing(v)
	if bytes.Equal(is, s.said) && !s.away {
		return nil
	}
	var b bytes.Buffer
	if s.said != nil {
		fmt.Fprintln(&b)
	}
	s.said, s.away = is, false
	fmt.Fprintf(&b, "%s\n", v.Time.Local().Format(time.DateTime))
	for _, line := range statusLines(v, 0) {
		fmt.Fprintln(&b, line)
	}
	_, err := s.out.Write(b.Bytes())
	return err
}

func (s *statusChanges) trouble(err error) error {
	if s.away {
		return nil
	}
	s.away = true
	return printLine(s.out, "The service does not answer, and is waited for: %v", err)
}

// statusObjects prints an object for every change.
type statusObjects struct {
	out  *json.Encoder
	said []byte
}

func (s *statusObjects) view(v *enrol.ClusterView) error {
	is := changing(v)
	if bytes.Equal(is, s.said) {
		return nil
	}
	s.said = is
	return s.out.Encode(v)
}

func (s *statusObjects) trouble(error) error { return nil }

// changing is what makes a view another one: all of it but what passes by
// itself, of which only steps count.
func changing(v *enrol.ClusterView) []byte {
	c := *v
	c.Time = time.Time{}
	c.Slots = make([]enrol.SlotView, len(v.Slots))
	for i, s := range v.Slots {
		if s.LastSeen != nil {
			// Whether it is heard of, or was.
			var when time.Time
			if v.Time.Sub(*s.LastSeen) > time.Minute {
				when = when.Add(time.Hour)
			}
			s.LastSeen = &when
		}
		if s.Health != nil {
			h := *s.Health
			h.UptimeS, h.Free, h.DiskFree = 0, 0, 0
			s.Health = &h
		}
		c.Slots[i] = s
	}
	data, _ := json.Marshal(&c) // it came as JSON
	return data
}

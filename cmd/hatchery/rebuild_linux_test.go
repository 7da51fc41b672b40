package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"hatchery/internal/testtool"
)

// TestRebuildAsks: whoever sits at a terminal is told what is lost, and asked.
func TestRebuildAsks(t *testing.T) {
	for _, test := range []struct {
		summary, args, answer string
		code                  int
		done                  bool
		asked                 bool
	}{
		{"no", "rebuild p1", "n\n", exitFailed, false, true},
		{"nothing", "rebuild p1", "\n", exitFailed, false, true},
		{"yes", "rebuild p1", "y\n", exitDone, true, true},
		{"it is said before", "rebuild p1 --yes", "", exitDone, true, false},
		{"for a program", "rebuild p1 --json", "", exitDone, true, false},
		{"what is refused is not asked about", "rebuild p3", "", exitFailed, false, false},
		{"an upgrade", "upgrade p1", "n\n", exitFailed, false, true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w, socket := newWorks(t)
			close(w.hold)
			master, tty := testtool.Terminal(t, 24, 80)
			stdin := os.Stdin
			os.Stdin = tty
			defer func() { os.Stdin = stdin; tty.Close() }()
			go io.Copy(io.Discard, master) // the echo
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			answers := &answering{to: master, answer: test.answer}
			var out bytes.Buffer
			code := run(ctx, append(strings.Fields(test.args), "--socket", socket), &out, answers)
			said := answers.String()
			told := strings.Index(said, "lost: all of")
			asked := strings.Index(said, "Go on? [y/N]")
			if code != test.code || (asked >= 0) != test.asked || test.asked && (told < 0 || told > asked) {
				t.Errorf("exit code %d\n%s\n%s", code, out.String(), said)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if (w.boots[1] > 0) != test.done {
				t.Errorf("it booted %d times", w.boots[1])
			}
		})
	}
}

// answering answers the question when it is asked.
type answering struct {
	bytes.Buffer
	to     io.Writer
	answer string
}

func (a *answering) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("[y/N]")) {
		_, _ = io.WriteString(a.to, a.answer)
	}
	return a.Buffer.Write(p)
}

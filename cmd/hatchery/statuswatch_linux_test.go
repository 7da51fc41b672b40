package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/controller"
	"hatchery/internal/enrol"
	"hatchery/internal/testtool"
)

// watched is what somebody sees on a terminal: the bytes that came, and
// the lines that they leave standing.
type watched struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (s *watched) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes.Write(p)
}

var moves = regexp.MustCompile(`^\x1b\[(\d*)([AJ])`)

// shows plays the bytes as a terminal does: lines, the cursor up, and everything
// from it on erased. highest is the most lines that were moved up at once.
func (s *watched) shows(t *testing.T) (lines []string, highest int) {
	t.Helper()
	s.mu.Lock()
	text := s.bytes.String()
	s.mu.Unlock()
	lines = []string{""}
	at := 0
	for len(text) > 0 {
		switch {
		case text[0] == '\x1b':
			m := moves.FindStringSubmatch(text)
			if m == nil {
				if len(text) < 8 {
					return lines, highest // not all of it has come
				}
				t.Fatalf("the terminal is told %.20q", text)
			}
			switch m[2] {
			case "A":
				n := 0
				for _, d := range m[1] {
					n = 10*n + int(d-'0')
				}
				if at -= n; at < 0 {
					t.Fatalf("the cursor is moved above the first line")
				}
				highest = max(highest, n)
			case "J":
				lines = append(lines[:at], "")
			}
			text = text[len(m[0]):]
		case text[0] == '\n':
			if at++; at == len(lines) {
				lines = append(lines, "")
			}
			text = text[1:]
		case text[0] == '\r':
			text = text[1:]
		default:
			end := strings.IndexAny(text, "\x1b\r\n")
			if end < 0 {
				end = len(text)
			}
			lines[at] += text[:end]
			text = text[end:]
		}
	}
	return lines, highest
}

// TestWatchOnATerminal redraws in place: after changes and a service that was away
// there is one table, and it is the last one; on a terminal that is too low it ends
// before its last line.
func TestWatchOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for _, size := range []struct {
		summary       string
		rows, columns uint16
	}{{"large", 40, 120}, {"narrow", 60, 34}, {"low", 6, 90}, {"without a size", 0, 0}} {
		t.Run(size.summary, func(t *testing.T) {
			master, tty := testtool.Terminal(t, size.rows, size.columns)
			var seen watched
			read := make(chan struct{})
			go func() {
				defer close(read)
				buffer := make([]byte, 4096)
				for {
					n, err := master.Read(buffer)
					seen.Write(buffer[:n])
					if err != nil {
						return
					}
				}
			}()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var mu sync.Mutex
			var away error
			v := aView()
			done := make(chan error, 1)
			go func() {
				done <- watchStatus(ctx, &output{Writer: tty}, false, func(context.Context) (*enrol.ClusterView, error) {
					mu.Lock()
					defer mu.Unlock()
					c := *v
					return &c, away
				})
			}()
			until := func(what string) (lines []string) {
				t.Helper()
				for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
					lines, highest := seen.shows(t)
					if strings.Contains(strings.Join(lines, "\n"), what) {
						if size.rows > 0 && highest >= int(size.rows) {
							t.Errorf("the cursor is moved %d lines up on a terminal of %d", highest, size.rows)
						}
						return lines
					}
					if time.Since(began) > time.Minute {
						t.Fatalf("there is no %q on the screen:\n%s", what, strings.Join(lines, "\n"))
					}
				}
			}
			until("Cluster homelab")
			mu.Lock()
			away = controller.ErrNotServed
			mu.Unlock()
			until("The service does not run")
			mu.Lock()
			away, v.Cluster = nil, "anotherlab"
			mu.Unlock()
			until("Cluster anotherlab")
			// A terminal hands a table on in pieces: it is whole with its last line.
			rows, columns := cmp.Or(int(size.rows), 24), cmp.Or(int(size.columns), 80)
			last := "the terminal has no more"
			if whole := statusLines(v, columns-1); len(whole) < rows {
				last = whole[len(whole)-1]
			}
			lines := until(last)
			text := strings.Join(lines, "\n")
			if strings.Contains(text, "homelab") || strings.Contains(text, "does not run") || strings.Count(text, "Cluster ") != 1 {
				t.Errorf("what was is still there:\n%s", text)
			}
			for _, line := range lines {
				if size.columns > 0 && len([]rune(line)) >= int(size.columns) {
					t.Errorf("the line %q is broken by a terminal of %d columns", line, size.columns)
				}
			}
			if size.rows > 0 && len(lines) > int(size.rows) {
				t.Errorf("there are %d lines on a terminal of %d", len(lines), size.rows)
			}
			if size.rows == 6 && !strings.Contains(text, "the terminal has no more") {
				t.Errorf("it is not said that lines are missing:\n%s", text)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			tty.Close()
			<-read
		})
	}
}

// TestWatchIsLeft: who watched through ssh and is gone leaves nothing running,
// though nothing changes that would be written.
func TestWatchIsLeft(t *testing.T) {
	for _, kind := range []string{"pipe", "socket"} {
		t.Run(kind, func(t *testing.T) {
			r, w, err := os.Pipe()
			if kind == "socket" { // as sshd has it
				var fds [2]int
				if fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
					r, w = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			first := make(chan struct{})
			go func() {
				r.Read(make([]byte, 1))
				close(first)
			}()
			done := make(chan error, 1)
			go func() {
				done <- watchStatus(ctx, &output{Writer: w}, false, func(context.Context) (*enrol.ClusterView, error) { return aView(), nil })
			}()
			<-first
			r.Close()
			if err := <-done; err != nil && !errors.Is(err, unix.EPIPE) {
				t.Error(err)
			}
			if ctx.Err() != nil {
				t.Error("it goes on for nobody")
			}
		})
	}
}

package slots_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/netboot/slots"
)

// TestTimelines plays what is seen of a slot, at times, and compares what the
// board makes of it. A line without indentation is told to the board, or done
// to the HAT; the indented ones after it are what happened until the next.
func TestTimelines(t *testing.T) {
	for _, test := range timelines {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			want := unindent(test.line)
			synctest.Test(t, func(t *testing.T) {
				got := play(t, want)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("want -, got +:\n%s\nwhole:\n%s", diff, got)
				}
			})
		})
	}
}

// unindent takes the tabs of this file off.
func unindent(text string) string {
	return strings.TrimSpace(strings.ReplaceAll(text, "\n\t\t", "\n")) + "\n"
}

// play does what the lines without indentation say.
func play(t *testing.T, script string) string {
	begin := time.Now()
	var mu sync.Mutex
	var out strings.Builder
	say := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&out, "  %s %s\n", stamp(begin), strings.TrimSpace(text))
	}
	h := newHat(say)
	options := slots.Options{Slots: []int{2}, Power: h, Log: slog.New(lines{say})}
	first, _, _ := strings.Cut(script, "\n")
	fmt.Fprintln(&out, first)
	switch first {
	case "0s found on":
		h.on[2] = true
	case "0s no HAT":
		options.Power = nil
	}
	b := slots.New(options)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	synctest.Wait()

	for i, line := range strings.Split(script, "\n") {
		if strings.HasPrefix(line, " ") || line == "" || i == 0 {
			continue
		}
		when, what, _ := strings.Cut(line, " ")
		at, err := time.ParseDuration(when)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(at - time.Since(begin))
		synctest.Wait()
		mu.Lock()
		fmt.Fprintln(&out, line)
		mu.Unlock()
		do(t, b, h, what, say)
		synctest.Wait()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	return out.String()
}

// do is one line.
func do(t *testing.T, b *slots.Board, h *hat, what string, say func(string)) {
	answer := func(err error) {
		if err != nil {
			say("error: " + err.Error())
		}
	}
	word, rest, _ := strings.Cut(what, ": ")
	switch word {
	case "found on", "found off", "no HAT", "end":
	case "switch on":
		answer(b.SwitchOn(t.Context(), 2))
	case "switch off":
		answer(b.SwitchOff(t.Context(), 2))
	case "switch over":
		answer(b.SwitchOver(t.Context(), 2))
	case "retry":
		answer(b.Retry(2))
	case "disable", "enable":
		b.Enable(2, word == "enable")
	case "clusterctrl on", "clusterctrl off":
		h.outside(2, word == "clusterctrl on")
	case "HAT breaks":
		h.breaks(rest, true)
	case "HAT mends":
		h.breaks(rest, false)
	case "status":
		st, _ := b.Status(2)
		text := fmt.Sprintf("%s, %d tries; %s", st.State, st.Tries, st.Detail)
		if st.NextTry != nil {
			text += fmt.Sprintf("; next try in %s: %s", time.Until(*st.NextTry), st.Reason)
		}
		say(text)
	case "file":
		e := slots.Event{Kind: slots.File}
		if name, ok := strings.CutSuffix(rest, " missing"); ok {
			b.Tell(2, slots.Event{Kind: slots.FileMissing, Name: name})
			return
		}
		if _, err := fmt.Sscanf(rest, "%s %d/%d", &e.Name, &e.Bytes, &e.Total); err != nil {
			t.Fatal(err)
		}
		b.Tell(2, e)
	case "root attached", "root detached":
		conn, reason, _ := strings.Cut(rest, " ")
		b.Tell(2, slots.Event{Kind: slots.Kind(word), Conn: conn, Reason: reason})
	default:
		b.Tell(2, slots.Event{Kind: slots.Kind(word), Reason: rest})
	}
}

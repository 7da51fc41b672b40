package reimage_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	hats "hatchery/controller/hat"
	"hatchery/controller/power"
	"hatchery/controller/reimage"
	wire "hatchery/internal/reimage"
)

// TestLeft is about records that nobody is at work with any more.
func TestLeft(t *testing.T) {
	long := deadline * 10
	for _, test := range []struct {
		summary string
		phase   string
		heard   string // in which boot the agent is, "" for not heard
		silent  time.Duration
		rearm   time.Duration
		stays   bool
	}{
		{"its node is back as before", reimage.Armed, nextBoot, long, long, false},
		{"its node has asked, and is back as before", reimage.Asked, nextBoot, long, long, false},
		{"its node never went", reimage.Armed, agentBoot, long, time.Millisecond, false},
		{"its node is gone for good", reimage.Asked, "", 50 * time.Millisecond, long, false},
		{"its node is going", reimage.Armed, agentBoot, long, long, true},
		{"its node was not heard yet", reimage.Armed, "", long, long, true},
		{"its card is begun", reimage.Writing, nextBoot, 50 * time.Millisecond, time.Millisecond, true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWorld(t)
			w.times.Left, w.times.Silent, w.times.Rearm = 10*time.Millisecond, test.silent, test.rearm
			w.assign("B")
			card := noise()
			w.begin(card, test.phase)
			w.restart() // whoever began it is gone
			v := w.s.View(slot)
			if test.heard != "" {
				w.s.Heard(slot, test.heard)
			}
			if test.stays {
				// It is looked at every now and then.
				for range 10 {
					w.tick()
				}
				if v = w.s.View(slot); v == nil || v.Phase != test.phase {
					t.Fatalf("it was dropped: %v", v)
				}
				if said := strings.Contains(v.String(), "all the same"); said != (test.phase == reimage.Writing) {
					t.Errorf("status says %q", v)
				}
				if w.state() != "nothing next B" {
					t.Errorf("the slot has %s", w.state())
				}
				// It is written to its end, whatever was heard before.
				w.through(card, thirdBoot)
				eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
				w.holds(card, "B")
				return
			}
			if v == nil && test.heard != "" { // else its time may be over by now
				t.Fatal("it was dropped at once")
			}
			eventually(t, "the record's end", func() bool {
				if test.heard != "" {
					w.s.Heard(slot, test.heard)
				}
				return w.s.View(slot) == nil
			})
			if w.s.Busy(slot) || w.state() != "nothing next B" {
				t.Errorf("busy: %v, %s", w.s.Busy(slot), w.state())
			}
			for _, query := range []string{"", "?look=1"} {
				if _, err := w.wanted(query); !errors.Is(err, errNothing) {
					t.Errorf("something is to be written still: %v", err)
				}
			}
			w.restart()
			if v := w.s.View(slot); v != nil {
				t.Errorf("it came back: %v", v)
			}
		})
	}
}

// TestNotLeft is a record that somebody is at work with, for longer than nobody may be.
func TestNotLeft(t *testing.T) {
	w := newWorld(t)
	w.times.Left, w.times.Silent = time.Millisecond, deadline
	w.restart()
	w.assign("B")
	done := w.reimage(context.Background())
	w.armed()
	for range 10 {
		w.tick()
	}
	card := noise()
	w.through(card, nextBoot)
	succeed(t, await(t, "the end", done))
	w.holds(card, "B")
}

// A hat is a HAT with slots that somebody may be at work on.
type hat struct {
	mu   sync.Mutex
	on   map[int]bool
	cuts int
}

func (h *hat) Start(context.Context) error       { return nil }
func (h *hat) Fresh() bool                       { return false }
func (h *hat) Hub(context.Context, bool) error   { return nil }
func (h *hat) Alert(context.Context, bool) error { return nil }
func (h *hat) On(_ context.Context, n int) error { return h.turn(n, true) }

func (h *hat) Off(_ context.Context, n int) error { return h.turn(n, false) }

func (h *hat) turn(n int, on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on[n] && !on {
		h.cuts++
	}
	h.on[n] = on
	return nil
}

func (h *hat) Powered(_ context.Context, n int) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on[n], nil
}

func (h *hat) Status(context.Context) (hats.Status, error) { return hats.Status{}, nil }

func (h *hat) cut() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cuts
}

// TestRevived is a silent node whose card is begun, and that nobody waits for: it is
// switched off and on three times in all, over restarts, and status says so; one that is
// off by hand stays off, and one whose boot partition is written is left alone.
func TestRevived(t *testing.T) {
	for _, test := range []struct {
		summary string
		taken   bool // nobody knows any more why it is written
		boot    bool // at first it is at its boot partition
		off     bool // it is off by hand at first
	}{
		{summary: "its operation is gone with the service"},
		{summary: "nobody knows why it is written", taken: true},
		{summary: "its boot partition was being written", boot: true},
		{summary: "it is off by hand", off: true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w, h := newWorld(t), &hat{on: map[int]bool{slot: true}}
			var boot atomic.Bool
			var tries atomic.Int64
			boot.Store(test.boot)
			p, err := power.New(power.Options{HAT: h, StateDir: t.TempDir(), RunDir: t.TempDir(), Limits: power.Limits{OffFor: time.Millisecond}, AtWork: func(int) *power.Work {
				return &power.Work{What: "its card is written anew", Boot: boot.Load()}
			}})
			succeed(t, err)
			w.cycle = func(ctx context.Context, n int) error {
				tries.Add(1)
				return p.Restart(ctx, n)
			}
			if test.off {
				_, err := p.Do(t.Context(), slot, power.DoOff, power.How{Now: true, Force: true})
				succeed(t, err)
			}
			before := h.cut()
			card := noise()
			w.assign("B")
			if test.taken {
				w.restart()
				_, err := w.wanted("?begun=1")
				succeed(t, err)
			} else {
				w.begin(card, reimage.Writing)
			}
			w.times.Silent = 30 * time.Millisecond
			w.restart()
			if test.boot || test.off {
				eventually(t, "many tries", func() bool { return tries.Load() > 5 })
				if v := w.s.View(slot); h.cut() != before || v.GivenUp {
					t.Fatalf("its power was cut %d times: %v", h.cut()-before, v)
				}
				boot.Store(false)
				_, err := p.Do(t.Context(), slot, power.DoOn, power.How{})
				succeed(t, err)
			}
			eventually(t, "giving up", func() bool { return w.s.View(slot).GivenUp })
			if v := w.s.View(slot); h.cut() != before+3 || !strings.Contains(v.String(), "switched off and on 3 times in vain: hatchery console p2") {
				t.Errorf("its power was cut %d times, and status says %q", h.cut()-before, v)
			}
			w.restart()
			eventually(t, "giving up", func() bool { return w.s.View(slot).GivenUp })
			if h.cut() != before+3 {
				t.Errorf("its power was cut %d times", h.cut()-before)
			}
			// It is written to its end all the same.
			w.through(card, thirdBoot)
			eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
			w.holds(card, "B")
		})
	}
}

// TestRescuedView is what is known of a node that was started over its link: what it was at
// before, it is not at any more.
func TestRescuedView(t *testing.T) {
	w := newWorld(t)
	w.assign("B")
	card := noise()
	w.begin(card, reimage.Writing)
	if w.s.View(slot).Rescued {
		t.Error("nobody has started it")
	}
	if w.s.Rescued(slot); !w.s.View(slot).Rescued {
		t.Error("it was started, and nobody knows")
	}
	_, err := w.wanted("?begun=1")
	succeed(t, err)
	if w.s.View(slot).Rescued {
		t.Error("it was heard since")
	}
}

// TestStaleBooting is a node that was at its boot partition, and starts again: its power may
// be cut now.
func TestStaleBooting(t *testing.T) {
	w := newWorld(t)
	w.assign("B")
	w.begin(noise(), reimage.Writing)
	image, err := w.wanted("?begun=1")
	succeed(t, err)
	w.progress(image, wire.Progress{State: wire.Booting, Attempt: 3}, http.StatusOK)
	if p := w.s.View(slot).Progress; p.State != wire.Booting {
		t.Errorf("it is at %+v", p)
	}
	_, err = w.wanted("?look=1") // the agent's is no start
	succeed(t, err)
	if p := w.s.View(slot).Progress; p.State != wire.Booting {
		t.Errorf("it is at %+v", p)
	}
	_, err = w.wanted("?begun=1")
	succeed(t, err)
	if p := w.s.View(slot).Progress; p.State != wire.Comparing || p.Attempt != 3 {
		t.Errorf("it started again, and is at %+v", p)
	}
}

// TestForget is a slot in which another card is, while its own was being written.
func TestForget(t *testing.T) {
	w := newWorld(t)
	succeed(t, w.s.Forget(slot)) // of which nothing is known
	w.assign("B")
	ctx, cancel := context.WithCancel(context.Background())
	done := w.reimage(ctx)
	w.armed()
	if err := w.s.Forget(slot); !errors.Is(err, reimage.ErrBusy) {
		t.Errorf("somebody is at work with it: %v", err)
	}
	cancel()
	await(t, "the end", done)
	if succeed(t, w.s.Forget(slot)); w.phase() != "" {
		t.Errorf("it is %s", w.phase())
	}
	w.begin(noise(), reimage.Writing)
	succeed(t, w.s.Forget(slot))
	for range 2 {
		if w.s.View(slot) != nil || w.s.Unfinished(slot) || w.s.Busy(slot) || w.state() != "nothing next B" {
			t.Errorf("%v, the slot has %s", w.s.View(slot), w.state())
		}
		w.restart()
	}
}

// TestLeftArming is a record whose node was never reached.
func TestLeftArming(t *testing.T) {
	w := newWorld(t)
	w.times.Left = 10 * time.Millisecond
	w.restart()
	w.assign("B")
	w.agent.answer = func(rw http.ResponseWriter) bool { panic(http.ErrAbortHandler) }
	ctx, cancel := context.WithCancel(context.Background())
	done := w.reimage(ctx)
	eventually(t, "arming", func() bool { return strings.Contains(w.saidSteps(), "does not answer") })
	if w.phase() != reimage.Arming {
		t.Fatalf("it is %s", w.phase())
	}
	cancel()
	await(t, "the end", done)
	eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
}

// tick lets the service look once more.
func (w *world) tick() { time.Sleep(2 * w.times.Retry) }

// TestFails is a node that says again and again that it fails.
func TestFails(t *testing.T) {
	for _, test := range []struct {
		summary string
		fault   string
		failing time.Duration
		says    func(n int) []wire.Progress // each time, from 0
		times   int                         // until that is told; 0: it is not
		card    bool
	}{
		{"its card", wire.FaultCard, deadline, nil, 3, true},
		{"its link", "", time.Nanosecond, nil, 8, false},
		{"its link, for a moment", "", deadline, nil, 0, false},
		{"its card, which loses what is written", wire.FaultCard, deadline, func(int) []wire.Progress {
			return []wire.Progress{{State: wire.Writing, Total: 9}, {State: wire.Writing, Done: 9, Total: 9}, {State: wire.Verifying, Done: 9, Total: 9}}
		}, 3, true},
		{"its boot partition", wire.FaultCard, deadline, func(int) []wire.Progress { return []wire.Progress{{State: wire.Booting}} }, 3, true},
		{"its link, and it gets on between", "", time.Nanosecond, func(n int) []wire.Progress {
			return []wire.Progress{{State: wire.Writing, Done: int64(n), Total: 1000}}
		}, 0, false},
		{"at start after start", "", deadline, func(n int) []wire.Progress { return []wire.Progress{{State: wire.Comparing, Attempt: n + 1}} }, 8, false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWorld(t)
			w.times.Failing = test.failing
			w.restart()
			w.assign("B")
			done := w.reimage(context.Background())
			w.armed()
			image, err := w.wanted("")
			succeed(t, err)
			card := noise()
			w.writeCard(card, image)
			for n := range 20 {
				attempt := 1
				if test.says != nil {
					for _, p := range test.says(n) {
						attempt = max(attempt, p.Attempt)
						w.progress(image, p, http.StatusOK)
					}
				}
				w.progress(image, wire.Progress{State: wire.Failed, Detail: "because of this", Fault: test.fault, Attempt: attempt}, http.StatusOK)
				if test.times > 0 && n+1 == test.times {
					break
				}
				w.tick()
				if len(done) > 0 {
					t.Fatalf("after %d times it ends with %v", n+1, <-done)
				}
			}
			if test.times == 0 {
				w.through(card, nextBoot)
				succeed(t, await(t, "the end", done))
				return
			}
			err = await(t, "the end", done)
			var fails *reimage.FailsError
			if !errors.Is(err, reimage.ErrFails) || !errors.As(err, &fails) || fails.Reason != "because of this" || fails.Card != test.card || fails.Slot != slot {
				t.Errorf("%v", err)
			}
			if strings.Contains(err.Error(), "the card is at fault") != test.card {
				t.Errorf("%v", err)
			}
			// The node goes on, and another call has patience anew.
			if !w.s.Unfinished(slot) {
				t.Errorf("it is %s", w.phase())
			}
			done = w.goOn(context.Background())
			w.through(card, nextBoot)
			succeed(t, await(t, "the other's end", done))
		})
	}
}

// TestCancelEarly is a card that is left while its image is read, before anything of it is
// remembered.
func TestCancelEarly(t *testing.T) {
	w := newWorld(t)
	w.assign("B")
	release := w.s.HoldLists() // so that it is not read before that
	block := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- w.s.Reimage(context.Background(), slot, func(step, _ string) {
			if step == reimage.StepPrepare {
				succeed(t, w.s.Cancel(context.Background(), slot))
				close(block)
			}
		})
	}()
	await(t, "the reading", block)
	if err := await(t, "the end", done); !errors.Is(err, context.Canceled) || w.agent.armed != 0 || w.s.View(slot) != nil {
		t.Errorf("%v, armed %d times, %v", err, w.agent.armed, w.s.View(slot))
	}
	release()
	// Nothing is left of it for the next.
	again := w.reimage(context.Background())
	w.armed()
	w.through(noise(), nextBoot)
	succeed(t, await(t, "the end", again))
}

// TestRescued is a node that was started over its link to go on with its card.
func TestRescued(t *testing.T) {
	w := newWorld(t)
	w.times.Rescue = 50 * time.Millisecond
	w.restart()
	w.s.Rescued(slot) // of which nothing is known
	w.assign("B")
	card := noise()
	w.begin(card, reimage.Writing)
	says := func() string { return w.s.View(slot).String() }
	if strings.Contains(says(), "over its link") {
		t.Errorf("before: %s", says())
	}
	stranded := func() bool {
		w.s.Rescued(slot) // it begins again and again
		return strings.Contains(says(), "holds no order") && strings.Contains(says(), "hatchery console p2")
	}
	eventually(t, "that its card has no order", stranded)
	// Now it is heard of.
	image, err := w.wanted("?begun=1")
	succeed(t, err)
	if strings.Contains(says(), "over its link") {
		t.Errorf("after it was heard: %s", says())
	}
	eventually(t, "that it is gone again", stranded)
	w.s.Heard(slot, nextBoot)
	if strings.Contains(says(), "over its link") || !strings.Contains(says(), "another card") {
		t.Errorf("another card was put in: %s", says())
	}
	w.writeCard(card, image)
	w.progress(image, wire.Progress{State: wire.Done}, http.StatusOK)
	if strings.Contains(says(), "over its link") {
		t.Errorf("at the end: %s", says())
	}
	w.s.Heard(slot, thirdBoot)
	eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
}

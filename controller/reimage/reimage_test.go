package reimage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller/reimage"
	"hatchery/internal/enrol"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/store"
)

// noise is what a card holds before.
func noise() []byte {
	card := image(9)
	copy(card[mib:], "an order")
	return card
}

// through does all of a node's part, and gives how many pieces it fetched.
func (w *world) through(card []byte, boot string) int {
	w.t.Helper()
	n := w.written(card)
	w.s.Heard(slot, boot)
	return n
}

// written is through, up to the last word of what writes the card.
func (w *world) written(card []byte) int {
	w.t.Helper()
	image, err := w.wanted("")
	succeed(w.t, err)
	n := w.writeCard(card, image)
	w.progress(image, wire.Progress{State: wire.Done, Attempt: 1}, http.StatusOK)
	return n
}

func (w *world) holds(card []byte, name string) {
	w.t.Helper()
	want := w.images[name]
	if !bytes.Equal(card[:512], want[:512]) || !bytes.Equal(card[bootStart:], want[bootStart:]) {
		w.t.Errorf("the card does not hold %s", name)
	}
	if string(card[mib:mib+8]) != "an order" {
		w.t.Error("something was written where the order lies")
	}
}

func TestReimage(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	card := noise()
	w.assign("A")
	for _, step := range []struct {
		summary string
		begin   func(context.Context) <-chan error
		boot    string // the agent's, before
		pieces  int
		holds   string
		state   string
	}{
		{"the first time", w.reimage, agentBoot, 33, "A", "A+"},
		{"again, on the card as it is", w.reimage, nextBoot, 0, "A", "A+"},
		{"an upgrade", func(ctx context.Context) <-chan error { w.assign("B"); return w.reimage(ctx) }, thirdBoot, 1, "B", "B+ before A"},
		{"the upgrade undone", w.undo, "boot-4", 1, "A", "A+ before B"},
		{"undone once more", w.undo, "boot-5", 1, "B", "B+ before A"},
	} {
		w.agent.mu.Lock()
		w.agent.boot = step.boot
		w.agent.mu.Unlock()
		done := step.begin(ctx)
		w.armed()
		w.s.Heard(slot, step.boot) // it goes down, and says so
		if !w.s.Busy(slot) {
			t.Errorf("%s: nobody is at work", step.summary)
		}
		if n := w.written(card); n != step.pieces {
			t.Errorf("%s: %d pieces were fetched, want %d", step.summary, n, step.pieces)
		}
		eventually(t, step.summary+": the waiting for its agent", func() bool { return strings.Contains(w.saidSteps(), "boot: ") })
		w.s.Heard(slot, step.boot+"'s next")
		if err := await(t, step.summary, done); err != nil {
			t.Fatalf("%s: %v\n%s", step.summary, err, w.saidSteps())
		}
		w.holds(card, step.holds)
		if got := w.state(); got != step.state {
			t.Errorf("%s: the slot has %s, want %s", step.summary, got, step.state)
		}
		if _, err := w.wanted(""); !errors.Is(err, errNothing) {
			t.Errorf("%s: something is left to be written: %v", step.summary, err)
		}
		if w.s.View(slot) != nil || w.s.Busy(slot) || w.s.OpenImages() != 0 {
			t.Errorf("%s: something is left", step.summary)
		}
	}
	for _, want := range []string{"arm: ", "restart: ", "write: writing 0 of 5 MiB", "boot: "} {
		if !strings.Contains(w.saidSteps(), want) {
			t.Errorf("%q was not told:\n%s", want, w.saidSteps())
		}
	}
}

// TestTheServiceBeginsAgain ends it in every phase; the node notices nothing, and is armed
// once.
func TestTheServiceBeginsAgain(t *testing.T) {
	for _, phase := range []string{reimage.Armed, reimage.Asked, reimage.Writing, reimage.Done} {
		t.Run(phase, func(t *testing.T) {
			w := newWorld(t)
			card := noise()
			w.assign("B")
			ctx, cancel := context.WithCancel(context.Background())
			done := w.reimage(ctx)
			w.armed()
			var image *wire.Image
			if phase != reimage.Armed {
				var err error
				image, err = w.wanted("")
				succeed(t, err)
			}
			if phase == reimage.Writing || phase == reimage.Done {
				w.writeCard(card, image)
			}
			if phase == reimage.Done {
				w.progress(image, wire.Progress{State: wire.Done}, http.StatusOK)
			}
			if got := w.phase(); got != phase {
				t.Fatalf("it is %s", got)
			}
			cancel()
			if err := await(t, "the end", done); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			w.restart()
			if got := w.phase(); got != phase {
				t.Fatalf("after the restart it is %s", got)
			}
			done = w.goOn(context.Background())
			if phase == reimage.Done {
				eventually(t, "the waiting for its agent", func() bool { return strings.Contains(w.saidSteps(), "boot: ") })
				w.s.Heard(slot, nextBoot)
			} else {
				again, err := w.wanted("")
				succeed(t, err)
				if image != nil && *again != *image {
					t.Fatalf("another image: %+v, was %+v", again, image)
				}
				w.through(card, nextBoot)
			}
			if err := await(t, "the end", done); err != nil {
				t.Fatal(err)
			}
			w.holds(card, "B")
			if w.state() != "B+" || w.agent.armed != 1 {
				t.Errorf("%s, armed %d times", w.state(), w.agent.armed)
			}
		})
	}
}

// TestNobodyWaits is a node that comes back while nobody waits for it.
func TestNobodyWaits(t *testing.T) {
	w := newWorld(t)
	w.assign("A")
	ctx, cancel := context.WithCancel(context.Background())
	done := w.reimage(ctx)
	w.armed()
	cancel()
	await(t, "the end", done)
	w.through(noise(), nextBoot)
	eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
	if w.state() != "A+" {
		t.Error(w.state())
	}
}

// TestForgotten is a node that asks a service which knows nothing of it.
func TestForgotten(t *testing.T) {
	w := newWorld(t)
	if status, _ := w.call(http.MethodGet, wire.PathImage+"?begun=1", nil); status != http.StatusServiceUnavailable {
		t.Errorf("a begun card of a slot that has nothing: %d", status)
	}
	w.assign("A")
	if _, err := w.wanted(""); !errors.Is(err, errNothing) {
		t.Errorf("a card that is not begun: %v", err)
	}
	if _, err := w.wanted("?look=1&begun=1"); !errors.Is(err, errNothing) || w.s.View(slot) != nil {
		t.Errorf("an agent that looks: %v", err)
	}
	card := noise()
	image, err := w.wanted("?begun=1")
	succeed(t, err)
	w.writeCard(card, image)
	w.progress(image, wire.Progress{State: wire.Done}, http.StatusOK)
	w.s.Heard(slot, nextBoot)
	eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
	w.holds(card, "A")
	if w.state() != "A+" {
		t.Error(w.state())
	}
}

// TestItBeginsAgain is a node whose power goes, also after its last word.
func TestItBeginsAgain(t *testing.T) {
	w := newWorld(t)
	w.assign("A")
	done := w.reimage(context.Background())
	w.armed()
	card := noise()
	image, err := w.wanted("")
	succeed(t, err)
	w.writeCard(card, image)
	w.progress(image, wire.Progress{State: wire.Failed, Detail: "bad\x1b[31m card", Attempt: 1}, http.StatusOK)
	if v := w.s.View(slot); !strings.Contains(v.String(), "failed") || strings.Contains(v.String(), "\x1b") {
		t.Errorf("%q", v)
	}
	for range 2 {
		again, err := w.wanted("?begun=1")
		succeed(t, err)
		if *again != *image {
			t.Fatal("another image")
		}
		if n := w.writeCard(card, again); n != 0 {
			t.Errorf("%d pieces again", n)
		}
		w.progress(image, wire.Progress{State: wire.Done, Attempt: 2}, http.StatusOK)
	}
	if w.s.Heard(slot, agentBoot); w.s.IsWhole(slot) {
		t.Error("a report of the boot before makes it whole")
	}
	w.s.Heard(slot, nextBoot)
	succeed(t, await(t, "the end", done))
}

// TestItStartsIntoItsRoot is armed again, a few times.
func TestItStartsIntoItsRoot(t *testing.T) {
	w := newWorld(t)
	w.assign("A")
	done := w.reimage(context.Background())
	for i := range 3 {
		w.armed()
		boot := fmt.Sprint("root ", i)
		w.agent.mu.Lock()
		w.agent.boot = boot
		w.agent.mu.Unlock()
		if image, err := w.wanted("?look=1"); err != nil || image.Operation == "" || w.phase() == reimage.Asked {
			t.Errorf("an agent that looks is told %v, %v, and it is %s", image, err, w.phase())
		}
		// It reports from its root.
		eventually(t, "another arming, or the end", func() bool {
			w.s.Heard(slot, boot)
			return len(w.agent.arms) > 0 || w.s.View(slot) == nil
		})
	}
	err := await(t, "the end", done)
	if !errors.Is(err, reimage.ErrNotStarted) || w.s.View(slot) != nil {
		t.Errorf("%v", err)
	}
	if _, err := w.wanted("?look=1"); !errors.Is(err, errNothing) {
		t.Errorf("its agent is not told to take it back: %v", err)
	}
}

// TestItDeclines is a node that finds that it cannot write its card, and starts as before.
func TestItDeclines(t *testing.T) {
	w := newWorld(t)
	w.assign("A")
	done := w.reimage(context.Background())
	w.armed()
	image, err := w.wanted("")
	succeed(t, err)
	w.progress(image, wire.Progress{State: wire.Failed, Detail: "put in a larger card", Attempt: 1}, http.StatusOK)
	w.s.Heard(slot, nextBoot)
	err = await(t, "the end", done)
	if !errors.Is(err, reimage.ErrDeclined) || !strings.Contains(err.Error(), "a larger card") || w.s.View(slot) != nil || w.state() != "nothing next A" {
		t.Errorf("%v", err)
	}
}

// TestNotRestarted is a node that goes on in the boot in which it was armed.
func TestNotRestarted(t *testing.T) {
	w := newWorld(t)
	w.times.Rearm = time.Millisecond
	w.restart()
	w.assign("A")
	done := w.reimage(context.Background())
	w.armed()
	for len(w.agent.arms) == 0 {
		w.s.Heard(slot, agentBoot)
		time.Sleep(5 * time.Millisecond)
	}
	w.through(noise(), nextBoot)
	succeed(t, await(t, "the end", done))
}

func TestNotArmed(t *testing.T) {
	refuse := func(status int, code enrol.Code) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool {
			enrol.WriteError(w, &enrol.Error{Status: status, Code: code, Detail: "because"})
			return true
		}
	}
	for _, test := range []struct {
		summary string
		answer  func(http.ResponseWriter) bool
		want    string
	}{
		{"a card that is not prepared", refuse(http.StatusConflict, "not-prepared"), "not-prepared: because"},
		{"a card that fails", refuse(http.StatusInternalServerError, "card-failed"), "card-failed: because"},
		{"an old agent", refuse(http.StatusNotFound, "bad-request"), "flash the card"},
		{"something else", func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusTeapot); return true }, "418"},
	} {
		w := newWorld(t)
		w.assign("A")
		w.agent.answer = test.answer
		err := await(t, test.summary, w.reimage(context.Background()))
		var refused *reimage.RefusedError
		if !errors.As(err, &refused) || refused.Slot != slot || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.summary, err)
		}
		if w.s.View(slot) != nil || w.state() != "nothing next A" {
			t.Errorf("%s: something is left, and the slot has %s", test.summary, w.state())
		}
	}
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	w.times.Reach = 50 * time.Millisecond
	w.restart()
	w.assign("A")
	w.agent.listener.Close()
	err := await(t, "the end", w.reimage(context.Background()))
	if !errors.Is(err, reimage.ErrUnreachable) || !strings.Contains(err.Error(), "hatchery netboot enable p2") || w.s.View(slot) != nil {
		t.Errorf("%v", err)
	}
}

// TestLostAnswer is a node that was armed, though nobody heard that.
func TestLostAnswer(t *testing.T) {
	w := newWorld(t)
	w.assign("A")
	lost := make(chan struct{}, 100)
	w.agent.answer = func(rw http.ResponseWriter) bool {
		if c, _, err := http.NewResponseController(rw).Hijack(); err == nil {
			c.Close()
		}
		lost <- struct{}{}
		return true
	}
	done := w.reimage(context.Background())
	await(t, "the lost answer", lost)
	card := noise()
	w.through(card, nextBoot)
	succeed(t, await(t, "the end", done))
	w.holds(card, "A")
}

// TestSilence is a node that is switched off and on, then given up, and goes on after all.
func TestSilence(t *testing.T) {
	w := newWorld(t)
	cycles := make(chan int, 10)
	w.cycle = func(_ context.Context, n int) error { cycles <- n; return nil }
	w.times.Silent = time.Second // three of them are enough for a node that writes its card on a slow machine
	w.restart()
	w.assign("A")
	done := w.reimage(context.Background())
	w.armed()
	card := noise()
	image, err := w.wanted("")
	succeed(t, err)
	w.writeCard(card, image)
	for range 2 {
		if n := await(t, "a cycle", cycles); n != slot {
			t.Errorf("slot %d was switched", n)
		}
	}
	err = await(t, "the end", done)
	if !errors.Is(err, reimage.ErrSilent) || w.phase() != reimage.Writing || len(cycles) > 0 {
		t.Fatalf("%v, %s, %d more cycles", err, w.phase(), len(cycles))
	}
	if err := w.s.Cancel(context.Background(), slot); !errors.Is(err, reimage.ErrBegun) {
		t.Errorf("a begun card can be left as it is: %v", err)
	}
	w.times.Silent = deadline
	w.restart()
	done = w.goOn(context.Background())
	w.through(card, nextBoot)
	succeed(t, await(t, "the end", done))
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	w.assign("A")
	succeed(t, w.s.Cancel(context.Background(), slot))
	done := w.reimage(context.Background())
	w.armed()
	if err := await(t, "another", w.reimage(context.Background())); !errors.Is(err, reimage.ErrBusy) {
		t.Errorf("two at once: %v", err)
	}
	_, err := w.wanted("") // which is no harm yet
	succeed(t, err)
	succeed(t, w.s.Cancel(context.Background(), slot))
	if err := await(t, "the end", done); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := w.wanted(""); !errors.Is(err, errNothing) {
		t.Errorf("%v", err)
	}
}

func TestCheck(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	if err := w.s.Check(ctx, slot); !errors.Is(err, store.ErrNoRoot) {
		t.Errorf("nothing was pushed: %v", err)
	}
	if err := w.s.UndoTo(ctx, slot, "", nil); !errors.Is(err, store.ErrNoPrevious) {
		t.Errorf("nothing to undo: %v", err)
	}
	w.assign("B")
	if p, err := w.s.Plan(ctx, slot); err != nil || p.Size != imageSize || p.Current != nil || p.Same {
		t.Errorf("%+v, %v", p, err)
	}
	if err := w.s.Check(ctx, 3); err == nil {
		t.Error("slot 3 is none of the cluster's")
	}
	succeed(t, w.store.Configure(ctx, slot, func(s *store.Settings) { s.Mode = store.Netboot }))
	for _, err := range []error{w.s.Check(ctx, slot), w.s.Reimage(ctx, slot, nil), w.s.UndoTo(ctx, slot, "", nil)} {
		if !errors.Is(err, store.ErrNetboots) {
			t.Errorf("a slot that boots over its link: %v", err)
		}
	}
}

// TestUndoOfTheBegun goes back to what the slot had, and forgets what it was to have.
func TestUndoOfTheBegun(t *testing.T) {
	w := newWorld(t)
	succeed(t, w.store.Carded(context.Background(), w.roots["A"]))
	w.assign("B")
	card := bytes.Clone(w.images["A"])
	copy(card[mib:], "an order")
	ctx, cancel := context.WithCancel(context.Background())
	done := w.reimage(ctx)
	w.armed()
	image, err := w.wanted("")
	succeed(t, err)
	w.writeCard(card, image)
	cancel()
	await(t, "the end", done)
	for _, restarted := range []bool{false, true} {
		if restarted {
			w.restart() // amid the undoing, which goes on
		}
		ctx, cancel = context.WithCancel(context.Background())
		done = w.undo(ctx)
		eventually(t, "the undoing", func() bool { v := w.s.View(slot); return v != nil && v.Undo })
		if !restarted {
			cancel()
			await(t, "the end", done)
		}
	}
	defer cancel()
	again, err := w.wanted("?begun=1")
	succeed(t, err)
	if again.List == image.List {
		t.Fatal("it is the same image")
	}
	// The node has the list of the other one.
	w.progress(image, wire.Progress{State: wire.Writing}, http.StatusNotFound)
	w.through(card, nextBoot)
	succeed(t, await(t, "the end", done))
	w.holds(card, "A")
	if w.state() != "A+" {
		t.Error(w.state())
	}
}

// TestTheImageIsGone gives a begun card what its slot is to have now.
func TestTheImageIsGone(t *testing.T) {
	w := newWorld(t)
	w.assign("B")
	ctx, cancel := context.WithCancel(context.Background())
	done := w.reimage(ctx)
	w.armed()
	image, err := w.wanted("")
	succeed(t, err)
	card := noise()
	w.writeCard(card, image)
	cancel()
	await(t, "the end", done)
	w.stop()
	w.assign("A")
	_, err = w.store.Collect(context.Background(), store.CollectOptions{})
	succeed(t, err)
	w.start()
	if status, _ := w.call(http.MethodGet, wire.PathImage+"?begun=1", nil); status != http.StatusServiceUnavailable {
		t.Errorf("%d", status)
	}
	w.through(card, nextBoot)
	eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
	w.holds(card, "A")
	if w.state() != "A+" {
		t.Error(w.state())
	}
}

func TestHostileCalls(t *testing.T) {
	w := newWorld(t)
	w.assign("A")
	done := w.reimage(context.Background())
	w.armed()
	image, err := w.wanted("")
	succeed(t, err)
	at := wire.PathImage + "/" + image.List
	other := wire.PathImage + "/" + strings.Repeat("0", 64)
	runs := func(r ...[2]int64) *wire.Wanted { return &wire.Wanted{Runs: r} }
	for _, test := range []struct {
		summary, method, path string
		body                  any
		status                int
	}{
		{"another list", http.MethodGet, other + wire.PathDigests, nil, http.StatusNotFound},
		{"pieces of another", http.MethodPost, other + wire.PathPieces, runs([2]int64{0, 1}), http.StatusNotFound},
		{"progress of another", http.MethodPost, other + wire.PathProgress, &wire.Progress{State: wire.Done}, http.StatusNotFound},
		{"a list that is none", http.MethodGet, wire.PathImage + "/..%2f..%2fetc" + wire.PathDigests, nil, http.StatusNotFound},
		{"no pieces", http.MethodPost, at + wire.PathPieces, runs(), http.StatusBadRequest},
		{"a piece behind the end", http.MethodPost, at + wire.PathPieces, runs([2]int64{1 << 40, 1}), http.StatusBadRequest},
		{"a negative one", http.MethodPost, at + wire.PathPieces, runs([2]int64{-1, 1}), http.StatusBadRequest},
		{"where the order lies", http.MethodPost, at + wire.PathPieces, runs([2]int64{8, 1}), http.StatusBadRequest},
		{"too many", http.MethodPost, at + wire.PathPieces, runs([2]int64{0, 1 << 62}), http.StatusBadRequest},
		{"a huge body", http.MethodPost, at + wire.PathPieces, strings.Repeat("x", 100<<10), http.StatusRequestEntityTooLarge},
		{"an unknown state", http.MethodPost, at + wire.PathProgress, &wire.Progress{State: "idle"}, http.StatusBadRequest},
		{"more than all", http.MethodPost, at + wire.PathProgress, &wire.Progress{State: wire.Writing, Done: 2, Total: 1}, http.StatusBadRequest},
	} {
		if status, data := w.call(test.method, test.path, test.body); status != test.status {
			t.Errorf("%s: %d %.200s, want %d", test.summary, status, data, test.status)
		}
	}
	// Another slot of the cluster has nothing of it.
	mine := w.client
	w.client = w.calls.Client(w.cluster.Slot(t, 3), enrol.ClientOptions{}).HTTP()
	for _, path := range []string{wire.PathImage, at + wire.PathDigests} {
		if status, _ := w.call(http.MethodGet, path, nil); status != http.StatusNotFound {
			t.Errorf("slot 3 gets %s: %d", path, status)
		}
	}
	if status, _ := w.call(http.MethodPost, at+wire.PathPieces, runs([2]int64{0, 1})); status != http.StatusNotFound {
		t.Errorf("slot 3 gets pieces: %d", status)
	}
	w.client = mine
	if w.phase() != reimage.Asked {
		t.Errorf("it is %s", w.phase())
	}
	w.through(noise(), nextBoot)
	succeed(t, await(t, "the end", done))
}

func TestRecordsThatAreNone(t *testing.T) {
	w := newWorld(t)
	w.stop()
	place := filepath.Join(w.dir, "service", "reimage.json")
	base := "sha256:" + strings.Repeat("0", 64)
	record := func(slot, rest string) string {
		return `{"format":1,"slots":{"` + slot + `":{"operation":"x","root":{"slot":2,"base":"` + base + `"}` + rest + `}}}`
	}
	for _, content := range []string{
		"", "{}", `{"format":2}`, `{"format":1,"slots":{"x":{}}}`, record("02", `,"phase":"armed"`), record("3", `,"phase":"armed"`), record("2", `,"phase":"lost"`), record("2", ""),
		record("2", `,"phase":"armed","root":{"slot":2,"base":"sha256:00"}`), record("2", `,"phase":"armed","root":{"slot":2,"base":"../../etc"}`),
		record("2", `,"phase":"armed","root":{"slot":2,"base":"`+base+`","layers":["`+strings.Repeat(base+`","`, 40)+base+`"]}`),
		record("2", `,"phase":"armed","held":{"slot":3,"base":"`+base+`"}`), record("2", `,"phase":"armed","arms":-1`), record("2", `,"phase":"armed","arms":2000000`),
		record("2", `,"phase":"armed","boot_id":"`+strings.Repeat("x", 300)+`"`), record("2", `,"phase":"armed","root":{"slot":2,"base":"`+base+`","by":"`+strings.Repeat("x", 300)+`"}`),
	} {
		succeed(t, os.WriteFile(place, []byte(content), 0o600))
		if _, _, err := reimage.DecodeRecords([]byte(content)); err == nil {
			t.Errorf("%q was taken", content)
		}
	}
	if _, slots, err := reimage.DecodeRecords([]byte(record("2", `,"phase":"armed"`))); err != nil || slots != 1 {
		t.Errorf("what the others are like is not taken: %v", err)
	}
	succeed(t, os.Remove(place))
	w.start()
}

// TestDamagedRecords: records that cannot be read are set aside, and a node whose card is
// begun is taken up. An older file that was set aside stays.
func TestDamagedRecords(t *testing.T) {
	w := newWorld(t)
	w.assign("A")
	place := filepath.Join(w.dir, "service", "reimage.json")
	var said bytes.Buffer
	w.log = slog.New(slog.NewTextHandler(&said, nil))
	for i, test := range []struct{ aside, content string }{
		{".damaged", `{"format":1,"slots":{"2":{"ope`}, {".damaged-2", strings.Repeat("x", reimage.LargestFile+1)}, {".damaged-3", "\x00"},
	} {
		w.stop()
		succeed(t, os.WriteFile(place, []byte(test.content), 0o600))
		said.Reset()
		w.start()
		if content, err := os.ReadFile(place + test.aside); err != nil || string(content) != test.content {
			t.Errorf("%d: %d bytes are set aside, %v", i, len(content), err)
		}
		if s := said.String(); !strings.Contains(s, "level=ERROR") || !strings.Contains(s, place+test.aside) {
			t.Errorf("%d: %q is said", i, s)
		}
		if _, err := os.Lstat(place); !errors.Is(err, fs.ErrNotExist) || w.s.View(slot) != nil {
			t.Errorf("%d: it is still there: %v", i, err)
		}
		if _, err := w.wanted(""); !errors.Is(err, errNothing) {
			t.Errorf("%d: a card that is not begun: %v", i, err)
		}
		if _, err := w.wanted("?begun=1"); err != nil || !w.s.Unfinished(slot) {
			t.Errorf("%d: a card that is begun: %v", i, err)
		}
	}
	w.restart()
	if !w.s.Unfinished(slot) {
		t.Error("what was taken up is not kept")
	}
	w.through(noise(), nextBoot)
	eventually(t, "the record's end", func() bool { return w.s.View(slot) == nil })
}

// FuzzRecords: what is taken is written and read again as it is, and never more than fits.
func FuzzRecords(f *testing.F) {
	base := "sha256:" + strings.Repeat("0", 64)
	f.Add([]byte(`{"format":1,"slots":{"2":{"operation":"x","phase":"armed","root":{"slot":2,"base":"` + base + `","when":"2026-01-02T03:04:05Z"},"since":"2026-01-02T03:04:05.6Z"}}}`))
	f.Add([]byte(`{"format":1,"slots":{"252":{"operation":"\u0000<","phase":"arming","undo":true,"arms":2,"boot_id":"b","root":{"slot":252,"base":"` + base + `","layers":["` + base + `"],"by":"\ud800","label":{"file":"f"}},"held":{"slot":252,"base":"` + base + `"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		once, slots, err := reimage.DecodeRecords(data)
		if err != nil {
			return
		}
		if slots > 252 || len(once) > reimage.LargestFile {
			t.Errorf("%d slots, %d bytes", slots, len(once))
		}
		twice, again, err := reimage.DecodeRecords(once)
		if err != nil || again != slots || !bytes.Equal(once, twice) {
			t.Errorf("read again: %v, %d slots, was %d:\n%s\n%s", err, again, slots, once, twice)
		}
	})
}

package preserve_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"hatchery/controller/preserve"
	"hatchery/firstboot"
	"hatchery/internal/enrol"
	"hatchery/internal/kept"
)

// TestWhoseItIs: what is kept is the next root's, whatever becomes of the operation
// that saved it, and never that of a root which was there before.
func TestWhoseItIs(t *testing.T) {
	const op = "upgrade-7"
	done := enrol.StatusReport{Step: firstboot.Steady, State: enrol.StateDone}
	for _, test := range []struct {
		summary string
		do      func(l *lab) // the operation, after "newer" was saved by it
		fresh   bool         // then there is a root that is new; else it is the one before
		data    string       // what that has after it has asked
		there   bool         // there is an archive for people
		waits   bool         // and the next root gets it
	}{
		{summary: "a new root gets it", do: func(l *lab) {}, fresh: true, data: "newer", there: true},
		{
			summary: "withdrawn, and the root before goes on", do: func(l *lab) {
				l.keeper.Heard(2, done, true) // it is at work: this is the root before
				if !l.keeper.Waits(2) {
					t.Error("the node that is about to be renewed takes it from the next root")
				}
				must(t, l.keeper.Release(2, op, false))
				l.keeper.Heard(2, done, true)
			}, data: "newest", there: true,
		},
		{
			summary: "withdrawn, and the node does not come back but with a new root", do: func(l *lab) {
				must(t, l.keeper.Release(2, op, false))
			}, fresh: true, data: "newer", there: true,
		},
		{
			summary: "another operation is without it, and renews the root", do: func(l *lab) {
				must(t, l.keeper.Release(2, op, false))
				must(t, l.keeper.Withhold(2, "rebuild-8"))
				l.reopen()
				l.keeper.Heard(2, done, true)
				must(t, l.keeper.Release(2, op, true)) // whose it is not any more
			}, fresh: true, data: "none", there: true,
		},
		{
			summary: "it is there for people when that is done", do: func(l *lab) {
				must(t, l.keeper.Withhold(2, "rebuild-8"))
				must(t, l.keeper.Release(2, "rebuild-8", true))
				l.reopen()
			}, fresh: true, data: "none", there: true,
		},
		{
			summary: "another operation is without it, and does not get to renew the root", do: func(l *lab) {
				must(t, l.keeper.Withhold(2, "rebuild-8"))
				must(t, l.keeper.Release(2, "rebuild-8", false))
			}, fresh: true, data: "newer", there: true,
		},
		{
			summary: "the new root is given up after it had it", do: func(l *lab) {
				l.newRoot()
				must(t, l.node().Restore(t.Context(), nil))
				must(t, l.keeper.Release(2, op, true))
				l.keeper.Heard(2, done, true)
				if again, err := l.keeper.Again(2, op); !again || err != nil {
					t.Errorf("%v, %v", again, err)
				}
				l.reopen()
			}, fresh: true, data: "newer", there: true,
		},
		{
			summary: "the next save is of a node that does not answer, and has not got it", do: func(l *lab) {
				must(t, l.keeper.Release(2, op, true))
				l.away = true
				must(t, l.keeper.Save(t.Context(), 2, "rebuild-8", nil))
				l.away = false
				must(t, l.keeper.Release(2, "rebuild-8", false))
			}, fresh: true, data: "newer", there: true,
		},
		{
			summary: "the next save is of a root that has thrown it all away", do: func(l *lab) {
				must(t, os.RemoveAll(l.dir+"/docker/volumes/data"))
				must(t, l.keeper.Save(t.Context(), 2, "upgrade-8", nil))
			}, fresh: true, data: "none", there: true,
		},
		{summary: "nobody was at work any more", do: func(l *lab) { must(t, l.keeper.Release(2, op, true)) }, data: "newest", there: true, waits: true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t, nil)
			must(t, l.node().Restore(t.Context(), nil))
			l.lay(data, "newer")
			must(t, l.keeper.Save(t.Context(), 2, op, nil))
			l.lay(data, "newest")
			l.reopen()
			test.do(l)
			if test.fresh {
				l.newRoot()
			}
			must(t, l.node().Restore(t.Context(), nil))
			if got := l.read(data); got != test.data {
				t.Errorf("the root has %q, want %q", got, test.data)
			}
			v := l.keeper.View()
			if test.there != (len(v) == 1) || test.there && v[0].Waits != test.waits || l.keeper.Waits(2) != test.waits {
				t.Errorf("kept are %+v", v)
			}
		})
	}
}

// TestLetGoLater: what could not be let go of, since that could not be written down, is
// when its node is heard, or a while later.
func TestLetGoLater(t *testing.T) {
	const op = "upgrade-7"
	done := enrol.StatusReport{Step: firstboot.Steady, State: enrol.StateDone}
	for _, test := range []struct {
		summary string
		later   func(l *lab)
	}{
		{"its node is heard", func(l *lab) {
			l.keeper.Heard(2, enrol.StatusReport{Step: firstboot.Steady, State: enrol.StateDone}, false)
		}},
		{"a while later", func(l *lab) {
			ctx, cancel := context.WithCancel(l.t.Context())
			ended := make(chan error)
			go func() { ended <- l.keeper.Run(ctx) }()
			for began := time.Now(); strings.Contains(l.record(), op) && time.Since(began) < 30*time.Second; time.Sleep(time.Millisecond) {
			}
			cancel()
			<-ended
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t, func(o *preserve.Options) { o.Hold = 2400 * time.Millisecond })
			must(t, l.node().Restore(t.Context(), nil))
			l.lay(data, "newer")
			must(t, l.keeper.Save(t.Context(), 2, op, nil))
			must(t, os.Rename(l.options.Dir, l.options.Dir+"-away"))
			if err := l.keeper.Release(2, op, false); err == nil {
				t.Fatal("it was written down where nothing is")
			}
			l.keeper.Heard(2, done, true)
			must(t, os.Rename(l.options.Dir+"-away", l.options.Dir))
			if !l.keeper.Waits(2) || !strings.Contains(l.record(), op) {
				t.Fatalf("it was let go of: %s", l.record())
			}
			test.later(l)
			if text := l.record(); strings.Contains(text, op) {
				t.Fatalf("it is the operation's for ever: %s", text)
			}
			// The root that was there before goes on: nothing is for the next one.
			l.keeper.Heard(2, done, true)
			if l.keeper.Waits(2) {
				t.Error("the next root gets what the node has itself")
			}
		})
	}
}

// TestAsideForAWhile: what a new root is without is there for people until its node was
// Ready for a while, however long it was kept before, and for no root any more.
func TestAsideForAWhile(t *testing.T) {
	done := enrol.StatusReport{Step: firstboot.Steady, State: enrol.StateDone}
	l := newLab(t, func(o *preserve.Options) { o.Hold = 50 * time.Millisecond })
	must(t, l.node().Restore(t.Context(), nil))
	l.lay(data, "newer")
	must(t, l.keeper.Save(t.Context(), 2, "upgrade-7", nil))
	l.newRoot()
	must(t, l.node().Restore(t.Context(), nil))
	must(t, l.keeper.Release(2, "upgrade-7", true))
	l.keeper.Heard(2, done, true)
	must(t, l.keeper.Withhold(2, "rebuild-8"))
	l.newRoot()
	must(t, l.keeper.Release(2, "rebuild-8", true))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.keeper.Run(ctx) }()
	time.Sleep(200 * time.Millisecond)
	if v := l.keeper.View(); len(v) != 1 || v[0].Waits {
		t.Errorf("before the node is Ready, kept are %+v", v)
	}
	l.keeper.Heard(2, done, true)
	for began := time.Now(); len(l.keeper.View()) > 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatal("it is kept for ever")
		}
	}
	cancel()
	<-ended
}

// record is what is written down of slot 2.
func (l *lab) record() string {
	l.t.Helper()
	text, err := os.ReadFile(l.options.Dir + "/p2.json")
	must(l.t, err)
	return string(text)
}

// TestAway: a node that does not answer has nothing saved of it, where nothing waits.
func TestAway(t *testing.T) {
	l := newLab(t, nil)
	l.away = true
	if err := l.keeper.Save(t.Context(), 2, "rebuild-1", nil); !errors.Is(err, preserve.ErrUnreachable) {
		t.Error(err)
	}
	if v := l.keeper.View(); len(v) > 0 {
		t.Errorf("kept are %+v", v)
	}
}

// TestNotTakenBack: what a root did not take back is in the archive alone, which no newer one
// takes the place of.
func TestNotTakenBack(t *testing.T) {
	l := newLab(t, nil)
	must(t, l.node().Restore(t.Context(), nil))
	l.lay(data, "first")
	l.lay("srv/x", "only there")
	must(t, l.keeper.Save(t.Context(), 2, "upgrade-1", nil))
	l.unnamed = true
	l.newRoot()
	must(t, l.node().Restore(t.Context(), nil))
	must(t, l.keeper.Release(2, "upgrade-1", true))
	v := l.keeper.View()
	if len(v) != 1 || !v[0].Restored || len(v[0].NotBack) != 1 {
		t.Fatalf("kept are %+v", v)
	}
	if lacks := l.keeper.Lacks(2); !strings.Contains(lacks, "srv") {
		t.Errorf("it lacks %q", lacks)
	}
	l.lay(data, "newer")
	err := l.keeper.Save(t.Context(), 2, "upgrade-2", nil)
	if err == nil || !strings.Contains(err.Error(), "p2 did not take back ") || !strings.Contains(err.Error(), "`hatchery rebuild --kept p2 --drop`") {
		t.Errorf("it is saved: %v", err)
	}
	if now := l.keeper.View(); len(now) != 1 || now[0].File != v[0].File {
		t.Errorf("kept are %+v", now)
	}
	// Who goes back has the whole of it.
	there, err := l.keeper.Again(2, "upgrade-2")
	must(t, err)
	l.unnamed = false
	l.newRoot()
	must(t, l.node().Restore(t.Context(), nil))
	if !there || l.read(data) != "first" || l.read("srv/x") != "only there" {
		t.Errorf("%v: it has %q and %q", there, l.read(data), l.read("srv/x"))
	}
	// Then there is nothing that is in the archive alone.
	must(t, l.keeper.Release(2, "upgrade-2", true))
	must(t, l.keeper.Save(t.Context(), 2, "upgrade-3", nil))
	must(t, l.keeper.Drop(2))
}

// TestCutSave: until the new one is whole there is the one before.
func TestCutSave(t *testing.T) {
	l := newLab(t, nil)
	must(t, l.node().Restore(t.Context(), nil))
	l.lay(data, "first")
	must(t, l.keeper.Save(t.Context(), 2, "upgrade-1", nil))
	l.lay("docker/volumes/large/_data/f", strings.Repeat("0123456789abcdef", 3<<20))
	ctx, cancel := context.WithCancel(t.Context())
	err := l.keeper.Save(ctx, 2, "upgrade-2", func(_, detail string) {
		if strings.HasPrefix(detail, "16 MiB") {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	l.reopen()
	l.newRoot()
	must(t, l.node().Restore(t.Context(), nil))
	if got := l.read(data); got != "first" {
		t.Errorf("it has %q", got)
	}
}

// TestWithoutDocker: a node that has nothing left to do is Ready, though no member of
// anything.
func TestWithoutDocker(t *testing.T) {
	l := newLab(t, func(o *preserve.Options) {
		node := *o.Node
		node.Docker = false
		o.Node, o.Hold = &node, 10*time.Millisecond
	})
	l.lay(data, "x")
	must(t, l.keeper.Save(t.Context(), 2, "", nil))
	l.newRoot()
	l.keeper.Heard(2, enrol.StatusReport{Step: "link", State: enrol.StateDone}, false)
	must(t, l.node().Restore(t.Context(), nil))
	if l.read(data) != "x" {
		t.Error("a node on its way was taken for one that has it all")
	}
	l.keeper.Heard(2, enrol.StatusReport{Step: firstboot.Steady, State: enrol.StateDone}, false)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.keeper.Run(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); len(l.keeper.View()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is kept for ever")
		}
	}
	cancel()
	<-ended
}

// nowhere is an address that nobody has.
var nowhere = netip.MustParseAddr("127.255.255.254")

// TestRewritten is a root that starts from a card which is about to be written over: it gets
// nothing, so that the one that stays gets all.
func TestRewritten(t *testing.T) {
	rewrites := false
	l := newLab(t, func(o *preserve.Options) { o.Rewrites = func(slot int) bool { return slot == 2 && rewrites } })
	must(t, l.node().Restore(t.Context(), nil)) // the first root: nothing
	l.lay(data, "precious")
	must(t, l.keeper.Save(t.Context(), 2, "a", nil))

	call := func(call, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		method, path, _ := strings.Cut(call, " ")
		l.keeper.NodeCalls()[call](w, httptest.NewRequest(method, path, strings.NewReader(body)), 2)
		return w
	}

	// One that had begun before may have it already, and cannot say so.
	l.newRoot()
	offer := call("GET "+kept.Path, "").Body.String()
	rewrites = true
	_, digest, _ := strings.Cut(offer, `"digest":"`)
	digest, _, _ = strings.Cut(digest, `"`)
	w := call("POST "+kept.PathRestored, fmt.Sprintf(`{"digest":%q}`, digest))
	if w.Code != http.StatusServiceUnavailable || l.keeper.View()[0].Restored {
		t.Errorf("a root that does not stay has it back: %d %s", w.Code, w.Body)
	}
	for range 2 {
		var refused *enrol.Error
		if err := l.node().Restore(t.Context(), nil); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "the root that stays") {
			t.Errorf("a root that does not stay: %v", err)
		}
	}
	if w := call("GET "+kept.PathStream, ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("it gets the archive all the same: %d", w.Code)
	}
	if got := l.read(data); got != "none" {
		t.Errorf("it has %q", got)
	}

	l.newRoot()
	rewrites = false
	must(t, l.node().Restore(t.Context(), nil))
	if got := l.read(data); got != "precious" || !l.keeper.View()[0].Restored {
		t.Errorf("the root that stays has %q: %+v", got, l.keeper.View())
	}
}

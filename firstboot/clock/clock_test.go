package clock_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/firstboot/clock"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/nodefile"
)

// A wall is a wall clock that can be set: it goes on as the real one does,
// from wherever it was put.
type wall struct {
	mu     sync.Mutex
	off    time.Duration
	set    []time.Time // what it was set to
	broken error       // of setting it
	stuck  bool        // setting it does nothing
}

// year begins one.
func year(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }

func newWall(at time.Time) *wall { return &wall{off: time.Until(at)} }

func (w *wall) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Like time.Now on a clock that was set: the monotonic reading goes on.
	return time.Now().Round(0).Add(w.off)
}

func (w *wall) setTime(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set = append(w.set, t)
	if w.broken == nil && !w.stuck {
		w.off = t.Sub(time.Now().Round(0))
	}
	return w.broken
}

func (w *wall) times() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.set)
}

// A source tells the time as it is told to. Its clock goes on too.
type source struct {
	at        time.Time // when it was made or started
	started   time.Time
	age       time.Duration // of the answer, when it is looked at
	roundTrip time.Duration
	err       error
}

func (s source) Time(context.Context) (enrol.Reading, error) {
	at := s.at.Add(-s.age)
	if !s.started.IsZero() {
		at = at.Add(time.Since(s.started))
	}
	return enrol.Reading{At: at, Received: time.Now().Add(-s.age), RoundTrip: s.roundTrip}, s.err
}

func unsynchronized() (bool, error) { return false, nil }
func synchronized() (bool, error)   { return true, nil }

func TestSync(t *testing.T) {
	built := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	broken := errors.New("operation not permitted")
	for _, test := range []struct {
		summary  string
		now      time.Time // the clock's
		source   source
		servers  func() (bool, error)
		ceiling  time.Time
		broken   error
		stuck    bool
		want     time.Time // the clock's afterwards
		steps    int
		stepped  bool
		says     string // the result
		err      error
		errSays  string
		callback int
	}{
		{summary: "from 1970: to the floor at once, then to the time", now: year(1970), source: source{at: built.Add(time.Hour)},
			want: built.Add(time.Hour), steps: 2, stepped: true, says: "set forward by 1h0m0s", callback: 2},
		{summary: "from the build", now: built, source: source{at: built.AddDate(3, 0, 0)},
			want: built.AddDate(3, 0, 0), steps: 1, stepped: true, says: "set forward by 26304h0m0s", callback: 1},
		{summary: "by an answer that is a day old by now", now: built, source: source{at: built.AddDate(0, 0, 3), age: 24 * time.Hour},
			want: built.AddDate(0, 0, 3), steps: 1, stepped: true, says: "set forward by 72h0m0s", callback: 1},
		{summary: "ten years ahead", now: built.AddDate(10, 0, 0), source: source{at: built.Add(time.Minute)},
			want: built.Add(time.Minute), steps: 1, stepped: true, says: "set back by 87671h59m0s", callback: 1},
		{summary: "right", now: built.Add(time.Hour), source: source{at: built.Add(time.Hour)},
			want: built.Add(time.Hour), says: "right"},
		{summary: "nearly right", now: built.Add(time.Hour), source: source{at: built.Add(time.Hour + 900*time.Millisecond)},
			want: built.Add(time.Hour), says: "right, as far as"},
		{summary: "two seconds behind", now: built.Add(time.Hour), source: source{at: built.Add(time.Hour + 2*time.Second)},
			want: built.Add(time.Hour + 2*time.Second), steps: 1, stepped: true, says: "set forward by", callback: 1},
		{summary: "two seconds ahead", now: built.Add(time.Hour), source: source{at: built.Add(time.Hour - 2*time.Second)},
			want: built.Add(time.Hour - 2*time.Second), steps: 1, stepped: true, says: "set back by", callback: 1},
		{summary: "two seconds behind, by a slow answer", now: built.Add(time.Hour), source: source{at: built.Add(time.Hour + 2*time.Second), roundTrip: 8 * time.Second},
			want: built.Add(time.Hour), says: "right"},
		{summary: "a minute behind, and time servers at work", now: built.Add(time.Hour), source: source{at: built.Add(time.Hour + time.Minute)}, servers: synchronized,
			want: built.Add(time.Hour), says: "right, as far as 1m0s"},
		{summary: "an hour behind, and time servers at work", now: built.Add(time.Hour), source: source{at: built.Add(2 * time.Hour)}, servers: synchronized,
			want: built.Add(2 * time.Hour), steps: 1, stepped: true, says: "set forward by 1h0m0s", callback: 1},
		{summary: "a controller at the floor", now: built.Add(time.Hour), source: source{at: built},
			want: built, steps: 1, stepped: true, says: "set back by 1h0m0s", callback: 1},
		{summary: "a controller below the floor", now: built.Add(time.Hour), source: source{at: built.Add(-time.Minute)},
			want: built.Add(time.Hour), err: clock.ErrImplausible, errSays: "this image was built at 2026-11-22T12:00:00Z: set the controller's clock"},
		{summary: "both below the floor", now: year(2000), source: source{at: year(1970)},
			want: built, steps: 1, err: clock.ErrImplausible, errSays: "the controller says 1970-01-01", callback: 1},
		{summary: "a controller far off", now: built, source: source{at: built.AddDate(60, 0, 0)},
			want: built, err: clock.ErrImplausible, errSays: "which is after 2076-11-22"},
		{summary: "a controller as far off as numbers go", now: built, source: source{at: time.Unix(0, 1<<63-1)},
			want: built, err: clock.ErrImplausible, errSays: "which is after"},
		{summary: "a controller before all time", now: built, source: source{at: time.Unix(0, -1<<63)},
			want: built, err: clock.ErrImplausible, errSays: "this image was built at"},
		{summary: "a ceiling of the caller's", now: built, source: source{at: built.AddDate(2, 0, 0)}, ceiling: built.AddDate(1, 0, 0),
			want: built, err: clock.ErrImplausible, errSays: "which is after 2027-11-22"},
		{summary: "no answer", now: built.Add(time.Hour), source: source{err: &enrol.Error{Code: enrol.ClockUntrusted, Detail: "wait"}},
			want: built.Add(time.Hour), errSays: "clock-untrusted: wait"},
		{summary: "no answer in 1970: the floor at least", now: year(1970), source: source{err: context.DeadlineExceeded},
			want: built, steps: 1, err: context.DeadlineExceeded, callback: 1},
		{summary: "not allowed to set it", now: built, source: source{at: built.Add(time.Hour)}, broken: broken,
			want: built, steps: 1, err: broken, errSays: "cannot set the clock"},
		{summary: "not allowed to raise it", now: year(1970), source: source{at: built.Add(time.Hour)}, broken: broken,
			want: year(1970), steps: 1, err: broken, errSays: "cannot set the clock"},
		{summary: "somebody sets it back", now: built, source: source{at: built.Add(time.Hour)}, stuck: true,
			want: built, steps: 1, errSays: "something else sets it too", callback: 1},
		{summary: "a kernel that does not say", now: built, source: source{at: built.Add(time.Hour)}, servers: func() (bool, error) { return false, broken },
			want: built, err: broken, errSays: "time servers"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			// In a time of its own, no time passes but what is slept.
			synctest.Test(t, func(t *testing.T) {
				test.source.started = time.Now()
				w := newWall(test.now)
				w.broken, w.stuck = test.broken, test.stuck
				callbacks := 0
				if test.servers == nil {
					test.servers = unsynchronized
				}
				result, err := clock.Sync(t.Context(), test.source, clock.Options{
					Floor: built, Ceiling: test.ceiling, SetTime: w.setTime, Now: w.now, Synchronized: test.servers,
					Stepped: func() { callbacks++ },
				})
				if failed := test.err != nil || test.errSays != ""; failed != (err != nil) ||
					test.err != nil && !errors.Is(err, test.err) || err != nil && !strings.Contains(err.Error(), test.errSays) {
					t.Errorf("error %v; want %v, %q", err, test.err, test.errSays)
				}
				// Both clocks have gone on since the test began.
				if off := w.now().Sub(test.want); off < -time.Millisecond || off > time.Since(test.source.started)+time.Millisecond {
					t.Errorf("the clock shows %s; want %s", w.now(), test.want)
				}
				if w.times() != test.steps || result.Stepped != test.stepped || callbacks != test.callback {
					t.Errorf("set %d times, %+v, told %d times", w.times(), result, callbacks)
				}
				if err == nil && !strings.Contains(roundedResult(result), test.says) {
					t.Errorf("%q; want %q", roundedResult(result), test.says)
				}
			})
		})
	}
}

// roundedResult is the result without the moments that the test took.
func roundedResult(r clock.Result) string {
	r.Offset = r.Offset.Round(time.Second)
	return r.String()
}

// TestRealCertificates has a node call a controller over TLS, by clocks at
// which the controller's certificate is not valid.
func TestRealCertificates(t *testing.T) {
	now := time.Now()
	ends := enroltest.NewAuthority(t, now.AddDate(-1, 0, 0), now.AddDate(5, 0, 0))
	built := enroltest.NewCluster(t, "homelab")
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrol.PathTime, enroltest.Time)
	mux.HandleFunc("GET "+enrol.PathCluster, func(w http.ResponseWriter, r *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, enrol.ClusterView{Cluster: "homelab"})
	})
	for _, test := range []struct {
		summary          string
		at               time.Time
		controller, node *enrol.Identity
		valid            bool // at that time
	}{
		{"1970", year(1970), ends.Identity(t, 0, nil), ends.Identity(t, 2, nil), false},
		{"1970, the builder's", year(1970), built.Slot(t, 0), built.Slot(t, 2), false},
		{"ten years ahead", now.AddDate(10, 0, 0), ends.Identity(t, 0, nil), ends.Identity(t, 2, nil), false},
		{"ten years ahead, the builder's", now.AddDate(10, 0, 0), built.Slot(t, 0), built.Slot(t, 2), true},
		{"a minute behind", now.Add(-time.Minute), ends.Identity(t, 0, nil), ends.Identity(t, 2, nil), true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			w := newWall(test.at)
			s := enroltest.Serve(t, test.controller, mux, nil)
			client := s.Client(test.node, enrol.ClientOptions{Now: w.now})
			if _, err := client.Cluster(t.Context()); test.valid != (err == nil) || !test.valid && !errors.Is(err, enrol.ErrCertificateTime) {
				t.Fatalf("before: %v", err)
			}
			var log bytes.Buffer
			result, err := clock.Sync(t.Context(), client, clock.Options{
				Floor: now.AddDate(0, -1, 0), SetTime: w.setTime, Now: w.now, Synchronized: unsynchronized,
				Stepped: client.Reset, Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			if err != nil || !result.Stepped || time.Until(w.now()).Abs() > time.Second+result.RoundTrip || !strings.Contains(log.String(), "clock set") {
				t.Fatalf("%+v, %v; the clock shows %s\n%s", result, err, w.now(), log.String())
			}
			if _, err := client.Cluster(t.Context()); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}

	// Whoever else answers does not get to set the clock.
	for name, id := range map[string]*enrol.Identity{
		"another cluster's controller": enroltest.NewCluster(t, "homelab").Slot(t, 0),
		"a node":                       built.Slot(t, 1),
		"a client's certificate with the controller's name": ends.Identity(t, 0, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}),
	} {
		w := newWall(now.Add(time.Hour))
		client := enroltest.Serve(t, id, mux, nil).Client(built.Slot(t, 2), enrol.ClientOptions{Now: w.now})
		_, err := clock.Sync(t.Context(), client, clock.Options{Floor: now.AddDate(0, -1, 0), SetTime: w.setTime, Now: w.now, Synchronized: unsynchronized})
		if !errors.Is(err, enrol.ErrImpostor) || w.times() != 0 {
			t.Errorf("%s: %v, the clock was set %d times", name, err, w.times())
		}
	}
}

func TestFloor(t *testing.T) {
	for epoch, want := range map[int64]string{0: "2025-01-01", -5: "2025-01-01", 1795000000: "2026-11-18"} {
		if got := clock.Floor(&nodefile.Node{Epoch: epoch}).Format(time.DateOnly); got != want {
			t.Errorf("epoch %d: %s, want %s", epoch, got, want)
		}
	}
	// Without a floor of the caller's, hatchery's own age is one.
	w := newWall(year(1970))
	if raised, err := clock.Raise(clock.Options{SetTime: w.setTime, Now: w.now}); !raised || err != nil || w.now().Year() != 2025 {
		t.Errorf("%v, %v, %s", raised, err, w.now())
	}
	if raised, err := clock.Raise(clock.Options{SetTime: w.setTime, Now: w.now}); raised || err != nil || w.times() != 1 {
		t.Errorf("again: %v, %v, set %d times", raised, err, w.times())
	}
}

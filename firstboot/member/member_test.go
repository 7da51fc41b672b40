package member_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/firstboot/member"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// The engine's words, as 20.10 to 28 have them.
const (
	wordsExpired = "Swarm certificates have expired. To replace them, leave the swarm and join again."
	wordsTooSoon = "error while loading TLS certificate in /var/lib/docker/swarm/certificates/swarm-node.crt: certificate (1 - node1) not valid before Sat, 21 Nov 2026 09:00:00 UTC, and it is currently Thu, 01 Jan 1970 00:00:30 UTC: x509: certificate has expired or is not yet valid"
	wordsLocked  = `Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.`
	wordsRefused = `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing dial tcp 172.19.181.254:2377: connect: connection refused"`
)

func join(token, cluster string) *enrol.JoinAnswer {
	return &enrol.JoinAnswer{Action: enrol.Join, JoinToken: enrol.Secret(token), ClusterID: cluster,
		RemoteAddrs: []string{"172.19.181.254:2377"}, AdvertiseAddr: "172.19.181.3", DataPathAddr: "172.19.181.3", Availability: "pause"}
}

func leaveAndJoin(token, cluster string) *enrol.JoinAnswer {
	a := join(token, cluster)
	a.Action, a.Reason = enrol.LeaveAndJoin, "the swarm's list has no such node"
	return a
}

func stay(cluster string) *enrol.JoinAnswer {
	return &enrol.JoinAnswer{Action: enrol.Stay, ClusterID: cluster}
}

// isMember makes the fake an active member of swarm c1 from the start.
func isMember(f *fake) { f.set(f.member()) }

// failed makes it a member in state error.
func failed(words string, from, to time.Time) func(*fake) {
	return func(f *fake) {
		f.nodes = 1
		writeCertificate(f.t, f.root, "node1", "c1", from, to)
		f.set(swarm.Info{State: swarm.Failed, Error: words})
	}
}

var (
	lastYear = now.AddDate(-1, 0, 0)
	nextYear = now.AddDate(1, 0, 0)
)

// timeless is a test whose clock goes on only where everybody waits for it: an engine that
// is another one at the fourth look has had the time for that, however slow the machine is.
func timeless(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

func TestReconcile(t *testing.T) {
	for _, tt := range []struct {
		summary string
		setup   func(*fake)
		answers []any
		joins   []error
		leaves  []error
		want    string // what was asked and done
		result  member.Result
		err     string // a part of the error; "": none
		is      error
	}{
		{
			summary: "a node that is part of nothing joins",
			answers: []any{join("T1", "c1")},
			want:    "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true},
		},
		{
			summary: "a member stays",
			setup:   isMember,
			answers: []any{stay("c1")},
			want:    "ask active node1 c1",
			result:  member.Result{Action: enrol.Stay},
		},
		{
			summary: "a controller of before says nothing of the swarm's ID",
			setup:   isMember,
			answers: []any{stay("")},
			want:    "ask active node1 c1",
			result:  member.Result{Action: enrol.Stay},
		},
		{
			summary: "removed from the swarm: the engine goes on as if nothing were, the controller knows",
			setup:   isMember,
			answers: []any{leaveAndJoin("T1", "c1")},
			want:    "ask active node1 c1 | leave force=true | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.LeaveAndJoin, Joined: true, Left: true},
		},
		{
			summary: "the swarm was made anew, and the controller only says stay",
			setup:   isMember,
			answers: []any{stay("c2"), join("T1", "c1")},
			want:    "ask active node1 c1 | leave force=true | ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true, Left: true},
		},
		{
			summary: "told to join, a member does not leave",
			setup:   isMember,
			answers: []any{join("T1", "c1")},
			want:    "ask active node1 c1",
			result:  member.Result{Action: enrol.Join},
			err:     "the controller says join (no reason given), but the node is a member",
		},
		{
			summary: "told to stay where it is part of nothing",
			answers: []any{stay("c1")},
			want:    "ask inactive",
			result:  member.Result{Action: enrol.Stay},
			err:     "part of no swarm",
		},
		{
			summary: "the token was rotated between answer and join",
			answers: []any{join("T1", "c1"), join("T2", "c1")},
			joins:   []error{engineError(swarm.ErrBadToken)},
			want:    "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause | ask inactive | join 172.19.181.254:2377 T2 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true},
		},
		{
			summary: "the swarm was made anew between answer and join",
			answers: []any{join("T1", "c1"), join("T2", "c1")},
			joins:   []error{engineError(swarm.ErrCAMismatch)},
			want:    "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause | ask inactive | join 172.19.181.254:2377 T2 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true},
		},
		{
			summary: "a token that stays wrong is not tried for ever",
			answers: []any{join("T1", "c1")},
			joins:   slices.Repeat([]error{engineError(swarm.ErrBadToken)}, 9),
			want: "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause | ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause | " +
				"ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause | ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result: member.Result{Action: enrol.Join},
			err:    "after 4 tries", is: swarm.ErrBadToken,
		},
		{
			summary: "the manager cannot be reached",
			answers: []any{join("T1", "c1")},
			joins:   []error{engineError(swarm.ErrManagerUnreachable)},
			want:    "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join},
			err:     "joining the swarm", is: swarm.ErrManagerUnreachable,
		},
		{
			summary: "a certificate from the manager is refused for its dates: the clock is set, and it is tried again",
			answers: []any{join("T1", "c1")},
			joins:   []error{engineError(swarm.ErrCertificateTime)},
			want:    "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause | sync the clock | ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true},
		},
		{
			summary: "the clock cannot be set: nothing is thrown away",
			setup: func(f *fake) {
				failed(wordsTooSoon, lastYear, nextYear)(f)
				f.clock = errors.New("the controller's clock is not right yet")
			},
			want: "sync the clock",
			err:  "clock is not right yet", is: member.ErrClock,
		},
		{
			summary: "the clock was wrong, and the engine is stuck: the certificate is good, so a restart is enough",
			setup: func(f *fake) {
				failed(wordsTooSoon, lastYear, nextYear)(f)
				f.restarted = func(f *fake) { f.set(swarm.Info{State: swarm.Active, NodeID: "node1"}) }
			},
			answers: []any{stay("c1")},
			want:    "sync the clock | ask error node1 c1 | stop docker.service | start docker.service | ask active node1 c1",
			result:  member.Result{Action: enrol.Stay},
		},
		{
			summary: "expired after a year in a drawer: it leaves and joins, once the clock is right",
			setup:   failed(wordsExpired, now.AddDate(-1, 0, 0), now.AddDate(0, -9, 0)),
			answers: []any{stay("c1"), join("T1", "c1")},
			want:    "sync the clock | ask error node1 c1 | leave force=true | ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true, Left: true},
		},
		{
			summary: "expired, and the engine says something else of it",
			setup:   failed("x", now.AddDate(-1, 0, 0), now.AddDate(0, -9, 0)),
			answers: []any{stay("c1"), join("T1", "c1")},
			want:    "sync the clock | ask error node1 c1 | leave force=true | ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true, Left: true},
		},
		{
			summary: "expired, and the controller has the node leave",
			setup:   failed(wordsExpired, now.AddDate(-1, 0, 0), now.AddDate(0, -9, 0)),
			answers: []any{leaveAndJoin("T1", "c1")},
			want:    "sync the clock | ask error node1 c1 | leave force=true | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.LeaveAndJoin, Joined: true, Left: true},
		},
		{
			summary: "an engine that tries again by itself is given the time",
			setup: func(f *fake) {
				failed(wordsRefused, lastYear, nextYear)(f)
				f.become = func(looks int) *swarm.Info {
					if looks < 4 {
						return nil
					}
					return &swarm.Info{State: swarm.Active, NodeID: "node1"}
				}
			},
			answers: []any{stay("c1")},
			want:    "ask error node1 c1 | ask active node1 c1",
			result:  member.Result{Action: enrol.Stay},
		},
		{
			summary: "stuck in state error: a restart, and where that does not help, it leaves",
			setup:   failed("agent: something odd", lastYear, nextYear),
			answers: []any{stay("c1"), stay("c1"), join("T1", "c1")},
			want: "ask error node1 c1 | stop docker.service | start docker.service | ask error node1 c1 | leave force=true | " +
				"ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result: member.Result{Action: enrol.Join, Joined: true, Left: true},
		},
		{
			summary: "in state error, and the controller knows of no membership: nothing is lost",
			setup:   failed(wordsLocked, lastYear, nextYear),
			answers: []any{join("T1", "c1")},
			want:    "ask error node1 c1 | leave force=true | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true, Left: true},
		},
		{
			summary: "the join times out, and goes on in the background",
			joins:   []error{errPending},
			answers: []any{join("T1", "c1")},
			want:    "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true},
		},
		{
			summary: "a join in the background that breaks off leaves nothing behind",
			setup: func(f *fake) {
				f.set(swarm.Info{State: swarm.Pending})
				f.become = func(looks int) *swarm.Info {
					if looks < 3 {
						return nil
					}
					return &swarm.Info{State: swarm.Failed, Error: wordsRefused}
				}
			},
			answers: []any{join("T1", "c1")},
			want:    "ask pending | leave force=true | ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true, Left: true},
		},
		{
			summary: "a join that the agent's last run began goes on: it is not disturbed",
			setup: func(f *fake) {
				f.set(swarm.Info{State: swarm.Pending})
				f.become = func(looks int) *swarm.Info {
					if looks < 4 {
						return nil
					}
					info := f.member()
					return &info
				}
			},
			answers: []any{join("T1", "c1"), stay("c1")},
			want:    "ask pending | ask active node1 c1",
			result:  member.Result{Action: enrol.Stay},
		},
		{
			summary: "a join that hangs, with no certificate: it is given up, and why is told",
			setup: func(f *fake) {
				f.set(swarm.Info{State: swarm.Pending})
				f.dial = errors.New("dial tcp 172.19.181.254:2377: i/o timeout")
			},
			answers: []any{join("T1", "c1")},
			want:    "ask pending | leave force=true",
			result:  member.Result{Action: enrol.Join, Left: true},
			err:     "the manager does not answer at 172.19.181.254:2377: dial tcp",
		},
		{
			summary: "a member that hangs in pending: the engine is restarted, not the membership given up",
			setup: func(f *fake) {
				f.member()
				f.set(swarm.Info{State: swarm.Pending, NodeID: "node1"})
			},
			answers: []any{stay("c1")},
			want:    "ask pending node1 c1 | stop docker.service | start docker.service",
			result:  member.Result{Action: enrol.Stay},
			err:     "the manager answers at 172.19.181.254:2377: see `journalctl -u docker`",
		},
		{
			summary: "pending, and of a swarm that is no more",
			setup: func(f *fake) {
				f.member()
				f.set(swarm.Info{State: swarm.Pending, NodeID: "node1"})
			},
			answers: []any{leaveAndJoin("T1", "c1")},
			want:    "ask pending node1 c1 | leave force=true | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.LeaveAndJoin, Joined: true, Left: true},
		},
		{
			summary: "leaving fails: an engine that was restarted has nothing to end",
			setup:   isMember,
			answers: []any{leaveAndJoin("T1", "c1")},
			leaves:  []error{errors.New("leaving the swarm: context deadline exceeded")},
			want: "ask active node1 c1 | leave force=true | stop docker.service | start docker.service | leave force=true | " +
				"join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result: member.Result{Action: enrol.LeaveAndJoin, Joined: true, Left: true},
		},
		{
			summary: "the controller has it wait",
			answers: []any{&enrol.JoinAnswer{Action: enrol.Wait, Reason: "too many at once", RetryAfterS: 7}},
			want:    "ask inactive",
			result:  member.Result{Action: enrol.Wait},
			err:     "waits for too many at once",
		},
		{
			summary: "the controller's swarm is not there yet",
			answers: []any{&enrol.Error{Status: 503, Code: enrol.SwarmNotReady, Detail: "not yet", RetryAfterS: 5}},
			want:    "ask inactive",
			err:     "waits for the controller's swarm: swarm-not-ready: not yet",
		},
		{
			summary: "refused, for good: told, and nothing is done",
			setup:   isMember,
			answers: []any{&enrol.Error{Status: 403, Code: enrol.Revoked, Detail: "slot p3 was revoked: build it with --renew"}},
			want:    "ask active node1 c1",
			err:     "revoked: slot p3 was revoked",
		},
		{
			summary: "an action of a later version",
			answers: []any{&enrol.JoinAnswer{Action: "dance"}},
			want:    "ask inactive",
			result:  member.Result{Action: "dance"},
			err:     `says "dance"`,
		},
		{
			summary: "an answer without a token",
			answers: []any{&enrol.JoinAnswer{Action: enrol.Join}},
			want:    "ask inactive",
			result:  member.Result{Action: enrol.Join},
			err:     "gives no token",
		},
		{
			summary: "an answer that names no manager means the controller's own",
			answers: []any{&enrol.JoinAnswer{Action: enrol.Join, JoinToken: "T1"}},
			want:    "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause",
			result:  member.Result{Action: enrol.Join, Joined: true},
		},
		{
			summary: "the engine does not answer",
			setup:   func(f *fake) { f.silent = 9 },
			err:     "asking Docker", is: swarm.ErrUnreachable,
		},
		{
			summary: "it joined something else than it was told",
			setup:   func(f *fake) { f.cluster = "c9" },
			answers: []any{join("T1", "c1"), leaveAndJoin("T2", "c9")},
			want: "ask inactive | join 172.19.181.254:2377 T1 as 172.19.181.3, pause | ask active node1 c9 | leave force=true | " +
				"join 172.19.181.254:2377 T2 as 172.19.181.3, pause",
			result: member.Result{Action: enrol.LeaveAndJoin, Joined: true, Left: true},
		},
	} {
		t.Run(tt.summary, timeless(func(t *testing.T) {
			f := &fake{t: t, root: t.TempDir(), cluster: "c1", info: swarm.Info{State: swarm.Inactive},
				answers: tt.answers, joins: tt.joins, leaves: tt.leaves}
			if tt.setup != nil {
				tt.setup(f)
			}
			engine := member.Engine(f)
			if len(tt.joins) > 0 && tt.joins[0] == errPending {
				engine = &slow{fake: f}
			}
			m := f.newMember()
			m.Engine = engine
			result, err := m.Reconcile(t.Context())
			if got := strings.Join(trimmed(f.log), " | "); got != tt.want {
				t.Errorf("did\n  %s\nwant\n  %s", got, tt.want)
			}
			switch {
			case tt.err == "" && err != nil:
				t.Errorf("error %v, want none", err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("error %v, want one with %q", err, tt.err)
			case tt.is != nil && !errors.Is(err, tt.is):
				t.Errorf("error %v is not %v", err, tt.is)
			}
			if err != nil && strings.Contains(err.Error(), "T1") {
				t.Errorf("the error tells the token: %v", err)
			}
			if tt.err == "" && (result.Swarm.State != "active" || result.Swarm.NodeID == "") {
				t.Errorf("without an error the node is an active member; it is %+v", result.Swarm)
			}
			result.Swarm = enrol.SwarmState{}
			if diff := cmp.Diff(tt.result, result); diff != "" {
				t.Error(diff)
			}
			for _, r := range f.asked {
				if r.Slot == nil || *r.Slot != 3 || r.BootID != "boot" || r.AgentVersion != "1" {
					t.Errorf("asked with %+v", r)
				}
			}
		}))
	}
}

// errPending has a slow engine say that the join goes on in the background.
var errPending = engineError(swarm.ErrJoinTimeout)

// slow is an engine whose join takes longer than its own limit.
type slow struct{ *fake }

func (s *slow) Join(ctx context.Context, o swarm.JoinOptions) error {
	err := s.fake.Join(ctx, o)
	if err == errPending {
		s.set(swarm.Info{State: swarm.Pending})
		s.become = func(looks int) *swarm.Info {
			if looks < 5 {
				return nil
			}
			info := s.member()
			return &info
		}
	}
	return err
}

func trimmed(lines []string) []string {
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// A controller that tells a member to leave whenever it is asked (two tables
// of it disagree, say) does not have it leave without end; once it is quiet,
// it is believed again.
func TestLeavesAreBounded(t *testing.T) {
	f := &fake{t: t, root: t.TempDir(), cluster: "c1", answers: []any{leaveAndJoin("T1", "c1")}}
	isMember(f)
	m := f.newMember()
	m.Waits.Calm = time.Hour
	leaves := func() int { return strings.Count(strings.Join(f.log, "\n"), "leave") }
	var wait *member.Wait
	for range 20 {
		_, err := m.Reconcile(t.Context())
		if err != nil && !errors.As(err, &wait) {
			t.Fatal(err)
		}
	}
	if wait == nil || wait.After < 50*time.Minute || !strings.Contains(wait.Error(), "no such node") {
		t.Errorf("it waits %+v", wait)
	}
	if n := leaves(); n < 2 || n > 4 {
		t.Errorf("it left %d times", n)
	}
	if f.info.State != swarm.Active {
		t.Errorf("it is %s in the end", f.info.State)
	}
	m.Waits.Calm = time.Nanosecond
	before := leaves()
	if _, err := m.Reconcile(t.Context()); err != nil || leaves() != before+1 {
		t.Errorf("after a quiet time it is not believed: %v", err)
	}
}

// What the controller asks for is bounded: no wait without end, none below 0.
func TestNonsenseToWait(t *testing.T) {
	for _, seconds := range []int{math.MinInt, -1, math.MaxInt32, math.MaxInt} {
		for _, answer := range []any{
			&enrol.Error{Status: 503, Code: enrol.SwarmNotReady, RetryAfterS: seconds},
			&enrol.JoinAnswer{Action: enrol.Wait, RetryAfterS: seconds},
		} {
			f := &fake{t: t, root: t.TempDir(), info: swarm.Info{State: swarm.Inactive}, answers: []any{answer}}
			_, err := f.newMember().Reconcile(t.Context())
			var wait *member.Wait
			if !errors.As(err, &wait) || wait.After < 0 || wait.After > time.Hour {
				t.Errorf("%d s: %#v", seconds, err)
			}
		}
	}
}

func TestWaitTellsWhen(t *testing.T) {
	f := &fake{t: t, root: t.TempDir(), info: swarm.Info{State: swarm.Inactive},
		answers: []any{&enrol.Error{Status: 503, Code: enrol.ClockUntrusted, Detail: "no NTP yet", RetryAfterS: 5}}}
	_, err := f.newMember().Reconcile(t.Context())
	var wait *member.Wait
	var refused *enrol.Error
	if !errors.As(err, &wait) || wait.After != 5*time.Second || wait.For != "the controller's clock" {
		t.Errorf("%#v, want a wait of 5 s for the controller's clock", err)
	}
	if !errors.As(err, &refused) {
		t.Errorf("%v does not tell what the controller said", err)
	}
}

// A member that hung in pending gets its restart once; the next remedy is to
// leave, also in another Reconcile.
func TestRemediesRise(t *testing.T) {
	f := &fake{t: t, root: t.TempDir(), cluster: "c1", answers: []any{stay("c1")}}
	f.member()
	f.set(swarm.Info{State: swarm.Pending, NodeID: "node1"})
	m := f.newMember()
	for _, want := range []string{
		"ask pending node1 c1 | stop docker.service | start docker.service",
		"ask pending node1 c1 | leave force=true",
	} {
		f.log = nil
		if _, err := m.Reconcile(t.Context()); err == nil {
			t.Fatal("no error from a node that is no member")
		}
		if got := strings.Join(trimmed(f.log), " | "); got != want {
			t.Errorf("did %s, want %s", got, want)
		}
	}
}

func TestCancelled(t *testing.T) {
	f := &fake{t: t, root: t.TempDir(), cluster: "c1", answers: []any{stay("c1")}}
	f.set(swarm.Info{State: swarm.Pending, NodeID: "node1"})
	ctx, cancel := context.WithCancel(t.Context())
	m := f.newMember()
	m.Waits = member.Waits{Poll: time.Hour}
	m.Tell = func(string, ...any) { cancel() }
	if _, err := m.Reconcile(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

func TestState(t *testing.T) {
	f := &fake{t: t, root: t.TempDir(), cluster: "c1", silent: 1}
	if s := member.State(t.Context(), f, f.root); s.State != "" || s.Error == "" {
		t.Errorf("%+v of an engine that does not answer", s)
	}
	f.set(f.member())
	want := enrol.SwarmState{State: "active", NodeID: "node1", ClusterID: "c1"}
	if s := member.State(t.Context(), f, f.root); s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	// Docker's folder may keep the certificate of what the node has left.
	f.set(swarm.Info{State: swarm.Inactive})
	if s := member.State(t.Context(), f, f.root); s != (enrol.SwarmState{State: "inactive"}) {
		t.Errorf("%+v of a node that is part of nothing", s)
	}
}

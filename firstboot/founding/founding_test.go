package founding_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/firstboot/founding"
	"hatchery/internal/swarm"
)

// reconcile goes on until there is no error, at most a few times, as an agent
// would; it gives the last result and error.
func reconcile(t *testing.T, f *founding.Founding) (founding.Result, error) {
	t.Helper()
	var result founding.Result
	var err error
	for range 5 {
		if result, err = f.Reconcile(t.Context()); err == nil {
			break
		}
	}
	return result, err
}

func TestReconcile(t *testing.T) {
	none := []round{{answered: []int{1, 2}}}
	offers := func(m *machine, wals ...string) []round {
		r := round{answered: []int{1, 2}}
		for _, w := range wals {
			r.backups = append(r.backups, &backup{m: m, wal: w})
		}
		return []round{r}
	}
	for _, tt := range []struct {
		summary string
		setup   func(*machine)
		rounds  func(*machine) []round // nil: no node has a backup
		how     string
		wal     string // afterwards
		kept    []string
		did     []string // what must be among what was done
		not     []string // and what must not
		is      error
		err     string
	}{
		{
			summary: "nothing there, and no node has a backup: a swarm is made",
			how:     founding.Made, wal: "good new1",
			did: []string{"init at 172.19.181.254"},
		},
		{
			summary: "a swarm that runs is left alone",
			setup:   func(m *machine) { m.put("good c1"); m.expiry, m.heartbeat = 8760*time.Hour, 8*time.Second },
			how:     founding.Kept, wal: "good c1",
			not: []string{"init", "stop", "ask", "set"},
		},
		{
			summary: "the life of certificates is another one now",
			setup:   func(m *machine) { m.put("good c1") },
			how:     founding.Kept, wal: "good c1",
			did: []string{"set the certificates' life to 8760h0m0s, the heartbeat to 8s"}, not: []string{"init", "stop"},
		},
		{
			summary: "the heartbeat is another one now",
			setup:   func(m *machine) { m.put("good c1"); m.expiry, m.heartbeat = 8760*time.Hour, 5*time.Second },
			how:     founding.Kept, wal: "good c1",
			did: []string{"set the certificates' life to 8760h0m0s, the heartbeat to 8s"}, not: []string{"init", "stop"},
		},
		{
			summary: "a card that was flashed anew, and nodes have a backup",
			rounds:  func(m *machine) []round { return offers(m, "good c1", "good c0") },
			how:     founding.Recovered, wal: "good c1",
			did: []string{"stop hatchery.service", "restore good c1, keep the service's state: false", "start hatchery.service", "init by force at 172.19.181.254"},
			not: []string{"init at"},
		},
		{
			summary: "the newest backup cannot be opened, the one before can",
			rounds:  func(m *machine) []round { return offers(m, "hopeless c1", "good c0") },
			how:     founding.Recovered, wal: "good c0",
		},
		{
			summary: "the newest backup cannot be fetched, the one before can",
			rounds: func(m *machine) []round {
				r := offers(m, "good c1", "good c0")
				r[0].backups[0].(*backup).err = errors.New("the sealed stream is damaged")
				return r
			},
			how: founding.Recovered, wal: "good c0",
		},
		{
			summary: "no backup can be opened",
			rounds:  func(m *machine) []round { return offers(m, "hopeless c1") },
			how:     founding.Made, wal: "good new1",
		},
		{
			summary: "a swarm lies in Docker's folder, and the engine does not know of it",
			setup: func(m *machine) {
				m.put("good c1")
				m.must(os.Remove(m.path("docker-state.json")))
			},
			rounds: func(m *machine) []round { return offers(m, "good c0") },
			how:    founding.Reopened, wal: "good c1", kept: []string{"good c1"},
			not: []string{"ask"},
		},
		{
			summary: "it does not open, but by force: with a copy beside",
			setup:   func(m *machine) { m.put("stuck c1") },
			rounds:  func(m *machine) []round { return offers(m, "good c0") },
			how:     founding.Reopened, wal: "good c1", kept: []string{"stuck c1"},
			not: []string{"ask"},
		},
		{
			summary: "it hangs, and opens by force",
			setup:   func(m *machine) { m.put("hangs c1") },
			how:     founding.Reopened, wal: "good c1", kept: []string{"hangs c1"},
		},
		{
			summary: "it does not open by force either: a backup takes its place",
			setup:   func(m *machine) { m.put("hopeless c1") },
			rounds:  func(m *machine) []round { return offers(m, "good c1") },
			how:     founding.Recovered, wal: "good c1", kept: []string{"hopeless c1"},
		},
		{
			summary: "a backup takes its place, and what the service has since is kept",
			setup: func(m *machine) {
				m.put("hopeless c1")
				m.must(os.MkdirAll(m.state, 0o700))
				m.must(os.WriteFile(filepath.Join(m.state, founding.SwarmFile), []byte("{}"), 0o600))
			},
			rounds: func(m *machine) []round { return offers(m, "good c1") },
			how:    founding.Recovered, wal: "good c1", kept: []string{"hopeless c1"},
			did: []string{"restore good c1, keep the service's state: true"},
		},
		{
			summary: "it does not open by force either, and nobody has a backup",
			setup:   func(m *machine) { m.put("hopeless c1") },
			how:     founding.Made, wal: "good new1", kept: []string{"hopeless c1"},
		},
		{
			summary: "rests of a swarm, without its state",
			setup: func(m *machine) {
				m.write("docker-state.json", "{}")
				m.certificate(swarm.RoleManager)
			},
			how: founding.Made, wal: "good new1", kept: []string{""},
		},
		{
			summary: "locked with a key: nothing is touched",
			setup:   func(m *machine) { m.put("locked c1") },
			rounds:  func(m *machine) []round { return offers(m, "good c1") },
			wal:     "locked c1", is: founding.ErrLocked,
			not: []string{"init", "stop", "ask"},
		},
		{
			summary: "a worker of another machine's swarm: nothing is touched",
			setup: func(m *machine) {
				m.put("worker c9")
				m.certificate(swarm.RoleWorker)
			},
			wal: "worker c9", is: founding.ErrWorker,
			not: []string{"init", "stop", "ask"},
		},
		{
			summary: "a worker whose manager is away: nothing is touched",
			setup: func(m *machine) {
				m.put("hangs c9")
				m.certificate(swarm.RoleWorker)
			},
			wal: "hangs c9", is: founding.ErrWorker,
			not: []string{"init", "stop", "ask"},
		},
		{
			summary: "further managers that are away: nothing is touched",
			setup: func(m *machine) {
				m.put("hangs c1")
				m.write("state.json", `[{"node_id":"a","addr":"172.19.181.254:2377"},{"node_id":"b","addr":"172.19.181.1:2377"}]`)
			},
			wal: "hangs c1", is: founding.ErrQuorum,
			not: []string{"init", "stop", "ask"},
		},
		{
			summary: "br0 has no address yet: the swarm is sound",
			setup:   func(m *machine) { m.put("nowhere c1") },
			wal:     "nowhere c1", is: swarm.ErrAddress,
			did: []string{"stop docker.service"}, not: []string{"init", "ask"},
		},
		{
			summary: "the disk is full: the swarm is sound",
			setup:   func(m *machine) { m.put("full c1") },
			wal:     "full c1", is: founding.ErrSpace,
			not: []string{"init", "stop", "ask"},
		},
		{
			summary: "what was under way cannot be read: judged by what is there",
			setup: func(m *machine) {
				m.put("stuck c1")
				m.must(os.MkdirAll(m.state, 0o700))
				m.must(os.WriteFile(filepath.Join(m.state, founding.PlanFile), []byte("\x00\x00\x00"), 0o600))
			},
			how: founding.Reopened, wal: "good c1", kept: []string{"stuck c1"},
		},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			m := newMachine(t)
			if tt.setup != nil {
				tt.setup(m)
			}
			m.running = false
			m.start()
			k := &keepers{m: m, rounds: none}
			if tt.rounds != nil {
				k.rounds = tt.rounds(m)
			}
			result, err := reconcile(t, m.founding(k, 1, 2))
			did := strings.Join(m.log, "\n")
			t.Logf("did:\n%s\nresult %+v, error %v", did, result, err)
			switch {
			case tt.is == nil && err != nil:
				t.Errorf("error %v, want none", err)
			case tt.is != nil && !errors.Is(err, tt.is):
				t.Errorf("error %v, want %v", err, tt.is)
			}
			if result.How != tt.how {
				t.Errorf("the swarm is %q, want %q", result.How, tt.how)
			}
			if got := wal(filepath.Join(m.root, "swarm")); got != tt.wal {
				t.Errorf("Docker's folder has %q, want %q", got, tt.wal)
			}
			if diff := cmp.Diff(tt.kept, m.kept()); diff != "" {
				t.Errorf("set aside: %s", diff)
			}
			if len(result.SetAside) != len(tt.kept) {
				t.Errorf("tells of %v set aside, want %d", result.SetAside, len(tt.kept))
			}
			for _, want := range tt.did {
				if !slices.ContainsFunc(m.log, func(s string) bool { return strings.HasPrefix(s, want) }) {
					t.Errorf("did not %q", want)
				}
			}
			for _, not := range tt.not {
				if slices.ContainsFunc(m.log, func(s string) bool { return strings.HasPrefix(s, not) }) {
					t.Errorf("did %q", not)
				}
			}
			if err == nil {
				if !m.running || !m.service || m.info.State != swarm.Active {
					t.Errorf("engine %v, service %v, swarm %s, want all up", m.running, m.service, m.info.State)
				}
				if m.expiry != 8760*time.Hour {
					t.Errorf("certificates live for %v, want what node.json says", m.expiry)
				}
				if m.deaf || result.How == founding.Made && m.signs != m.expiry {
					t.Errorf("the overlay networks are lost: %v; nodes get certificates for %v", m.deaf, m.signs)
				}
				// It is left alone from then on, by another agent too.
				m.log = nil
				again, err := m.founding(k, 1, 2).Reconcile(t.Context())
				if err != nil || again.How != founding.Kept || slices.ContainsFunc(m.log, func(s string) bool { return s != "look" }) {
					t.Errorf("afterwards: %+v, %v, did %q", again, err, m.log)
				}
			}
		})
	}
}

// The agent is killed before and after every call it makes, with the engine
// going on or ending with it, and a new agent takes over: there is a swarm in
// the end, it is the right one, and no state was lost.
func TestKilledAnywhere(t *testing.T) {
	for _, tt := range []struct {
		summary string
		put     string
		gone    bool   // docker-state.json is
		backup  string // that nodes have; "": none
		wal     string // in the end
		kept    string // one that must be among those set aside; "": none need be
	}{
		{summary: "made", wal: "good new"},
		{summary: "recovered", backup: "good c1", wal: "good c1"},
		{summary: "reopened", put: "good c1", gone: true, wal: "good c1", kept: "good c1"},
		{summary: "reopened by force", put: "stuck c1", wal: "good c1", kept: "stuck c1"},
		{summary: "broken and recovered", put: "hopeless c1", backup: "good c1", wal: "good c1", kept: "hopeless c1"},
		{summary: "broken and made", put: "hopeless c1", wal: "good new", kept: "hopeless c1"},
	} {
		for _, late := range []bool{false, true} {
			for _, power := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/late=%v/power=%v", tt.summary, late, power), func(t *testing.T) {
					t.Parallel()
					for at := 1; ; at++ {
						m := newMachine(t)
						if tt.put != "" {
							m.put(tt.put)
							if tt.gone {
								m.must(os.Remove(m.path("docker-state.json")))
							}
							m.running = false
							m.start()
						}
						r := round{answered: []int{1}}
						if tt.backup != "" {
							r.backups = []founding.Backup{&backup{m: m, wal: tt.backup}}
						}
						k := &keepers{m: m, rounds: []round{r}}
						m.killAt, m.killLate = at, late
						died := func() (died bool) {
							defer func() {
								if p := recover(); p != nil {
									if _, ok := p.(killed); !ok {
										panic(p)
									}
									died = true
								}
							}()
							_, err := reconcile(t, m.founding(k, 1))
							m.must(err)
							return false
						}()
						if !died {
							if at < 3 {
								t.Fatalf("only %d calls", at)
							}
							return
						}
						if power {
							m.running = false
							m.start() // systemd does
							m.service = true
						}
						before := strings.Join(m.log, "\n")
						m.log = nil
						_, err := reconcile(t, m.founding(k, 1))
						got := wal(filepath.Join(m.root, "swarm"))
						if err != nil || !strings.HasPrefix(got, tt.wal) || m.info.State != swarm.Active || !m.service {
							t.Fatalf("killed at call %d: %v; the folder has %q, the engine is %+v, the service %v\nbefore:\n%s\nafter:\n%s",
								at, err, got, m.info, m.service, before, strings.Join(m.log, "\n"))
						}
						if tt.kept != "" && !slices.Contains(m.kept(), tt.kept) {
							t.Fatalf("killed at call %d: set aside is %q, want %q in it\nbefore:\n%s\nafter:\n%s", at, m.kept(), tt.kept, before, strings.Join(m.log, "\n"))
						}
					}
				})
			}
		}
	}
}

func TestClockIsWaitedFor(t *testing.T) {
	m := newMachine(t)
	k := &keepers{m: m, rounds: []round{{answered: []int{1}}}}
	f := m.founding(k, 1)
	f.Clock = func(context.Context) (string, bool, error) { return "", false, nil }
	_, err := f.Reconcile(t.Context())
	var wait *founding.Wait
	if !errors.As(err, &wait) || m.made != 0 {
		t.Errorf("%v with %d swarms made, want a wait and none", err, m.made)
	}
	// One that runs is not the clock's business.
	m.put("good c1")
	m.running = false
	m.start()
	if _, err := f.Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNodesAreWaitedFor(t *testing.T) {
	for _, tt := range []struct {
		summary   string
		connected func() []int // nil: not known
		rounds    func(*machine) []round
		how       string
		rest      int  // so many rounds are left
		grace     bool // the grace time was waited
	}{
		{
			summary: "one that answers late has the backup",
			rounds: func(m *machine) []round {
				return []round{{}, {answered: []int{1}}, {answered: []int{1}}, {answered: []int{1, 2}, backups: []founding.Backup{&backup{m: m, wal: "good c1"}}}}
			},
			how: founding.Recovered, rest: 1,
		},
		{
			summary: "the first that answers has a backup, the next a later one",
			rounds: func(m *machine) []round {
				old, late := &backup{m: m, wal: "good c0"}, &backup{m: m, wal: "good c1"}
				return []round{{answered: []int{1}, backups: []founding.Backup{old}}, {answered: []int{1, 2}, backups: []founding.Backup{late, old}}}
			},
			how: founding.Recovered, rest: 1,
		},
		{
			summary: "one that never answers is waited for, and then not",
			rounds:  func(*machine) []round { return []round{{answered: []int{1}}} },
			how:     founding.Made, rest: 1, grace: true,
		},
		{
			summary:   "one that is not there is not waited for",
			connected: func() []int { return []int{1} },
			rounds:    func(*machine) []round { return []round{{answered: []int{1}}} },
			how:       founding.Made, rest: 1,
		},
		{
			summary:   "nobody is there: their power may come later",
			connected: func() []int { return nil },
			rounds:    func(*machine) []round { return []round{{}} },
			how:       founding.Made, rest: 1, grace: true,
		},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			m := newMachine(t)
			k := &keepers{m: m, rounds: tt.rounds(m)}
			f := m.founding(k, 1, 2)
			f.Waits.Grace = time.Hour
			if tt.grace {
				f.Waits.Grace = 50 * time.Millisecond
			}
			if tt.connected != nil {
				f.Connected = func(context.Context) ([]int, error) { return tt.connected(), nil }
			}
			start := time.Now()
			result, err := f.Reconcile(t.Context())
			if err != nil || result.How != tt.how || len(k.rounds) != tt.rest {
				t.Errorf("%+v, %v with %d rounds left, want %q and %d", result, err, len(k.rounds), tt.how, tt.rest)
			}
			if tt.how == founding.Recovered && wal(filepath.Join(m.root, "swarm")) != "good c1" {
				t.Errorf("recovered %q", wal(filepath.Join(m.root, "swarm")))
			}
			if least := f.Waits.Settle; (tt.grace || tt.connected != nil) && time.Since(start) < least {
				t.Errorf("made after %v, want nodes to have had %v", time.Since(start), least)
			}
		})
	}
}

func TestAddress(t *testing.T) {
	other := controllerAddr.Next().Prev().Prev()
	t.Run("is given to a swarm with one manager", func(t *testing.T) {
		m := newMachine(t)
		m.put("good c1")
		m.running = false
		m.start()
		m.info.NodeAddr = other
		m.nodes = []swarm.Node{{ID: m.info.NodeID, Manager: true}, {ID: "x"}}
		if _, err := m.founding(nil).Reconcile(t.Context()); err != nil || m.info.NodeAddr != controllerAddr {
			t.Errorf("%v, address %s", err, m.info.NodeAddr)
		}
	})
	t.Run("is left where there are more", func(t *testing.T) {
		m := newMachine(t)
		m.put("good c1")
		m.running = false
		m.start()
		m.info.NodeAddr = other
		m.nodes = []swarm.Node{{ID: m.info.NodeID, Manager: true}, {ID: "x", Hostname: "carter", Manager: true}}
		if _, err := m.founding(nil).Reconcile(t.Context()); err == nil || !strings.Contains(err.Error(), "carter") || m.info.NodeAddr != other {
			t.Errorf("%v, address %s", err, m.info.NodeAddr)
		}
	})
}

// Nobody else may start the engine while its folder is changed.
func TestEngineStopped(t *testing.T) {
	m := newMachine(t)
	k := &keepers{m: m}
	f := m.founding(k, 1)
	b := &backup{m: m, wal: "good c1"}
	b.restoring = func() {
		if !f.EngineStopped() {
			t.Error("the engine is not said to be stopped while a backup is restored")
		}
	}
	k.rounds = []round{{answered: []int{1}, backups: []founding.Backup{b}}}
	if result, err := f.Reconcile(t.Context()); err != nil || result.How != founding.Recovered || f.EngineStopped() {
		t.Errorf("%+v, %v, stopped %v", result, err, f.EngineStopped())
	}
}

func TestOnlyTheController(t *testing.T) {
	m := newMachine(t)
	f := m.founding(nil)
	f.Node.Role, f.Node.Slot = "node", 1
	if _, err := f.Reconcile(t.Context()); err == nil || m.calls != 0 {
		t.Errorf("%v after %d calls, want a refusal", err, m.calls)
	}
}

// An engine that somebody else stopped is theirs to start.
func TestEngineDown(t *testing.T) {
	m := newMachine(t)
	m.running = false
	if _, err := m.founding(nil).Reconcile(t.Context()); !errors.Is(err, swarm.ErrUnreachable) || m.running {
		t.Errorf("%v, running %v, want %v and an engine left alone", err, m.running, swarm.ErrUnreachable)
	}
}

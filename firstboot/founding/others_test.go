package founding_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/founding"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// another is a controller that gives the same answer to everyone.
type another struct {
	answer *enrol.JoinAnswer
	err    error
}

func (a another) Join(context.Context, enrol.JoinRequest) (*enrol.JoinAnswer, error) {
	return a.answer, a.err
}

// TestOthers has what a controller without a swarm, or with one that cannot be
// opened, does where there are others.
func TestOthers(t *testing.T) {
	silent := another{err: errors.New("no answer from the controller at 192.0.2.2")}
	without := another{err: &enrol.Error{Code: enrol.SwarmNotReady, Detail: "inactive"}}
	refuses := another{err: &enrol.Error{Code: enrol.StaleGeneration, Detail: "generation 1 is an old one"}}
	has := another{answer: &enrol.JoinAnswer{Action: enrol.Join, JoinToken: "manager-token", RemoteAddrs: []string{"192.0.2.2:2377"}}}
	for _, test := range []struct {
		summary string
		own     int    // which of the three it is
		swarm   string // in Docker's folder
		others  [2]another
		calls   string // one that is made; "" for neither join nor init
		err     string
	}{
		{"the first, and the others have none", 0, "", [2]another{without, without}, "init at 172.19.181.254", ""},
		{"the first, and nobody answers for as long as is waited", 0, "", [2]another{silent, without}, "init at 172.19.181.254", ""},
		{"the first, and another has the swarm", 0, "", [2]another{silent, has}, "join 192.0.2.2:2377 at 172.19.181.254 with manager-token", ""},
		{"another, and nobody has one", 1, "", [2]another{without, without}, "", "which controller makes"},
		{"another, and the first has it", 2, "", [2]another{has, silent}, "join 192.0.2.2:2377 at 172.19.181.254 with manager-token", ""},
		{"it is not let in", 0, "", [2]another{refuses, without}, "", "generation 1 is an old one"},
		{"it is not let in by one, but by another", 0, "", [2]another{refuses, has}, "join 192.0.2.2:2377 at 172.19.181.254 with manager-token", ""},
		{"a swarm that cannot be opened, and another has it", 0, "stuck A", [2]another{has, silent}, "join 192.0.2.2:2377 at 172.19.181.254 with manager-token", ""},
		{"a swarm that cannot be opened, and nobody else has it", 0, "stuck A", [2]another{silent, without}, "", "no other controller tells of one"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			m := newMachine(t)
			if test.swarm != "" {
				m.put(test.swarm)
			}
			m.start()
			f := m.founding(nil, 1)
			names := []string{"controller", "controller2", "controller3"}
			f.Others = map[string]founding.Controller{}
			next := 0
			for i, name := range names {
				one := nodefile.OneController{Name: name, Hostname: name, Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}
				if i == test.own {
					one.Address = controllerAddr // as the fixture's engine has it
				} else {
					f.Others[name] = test.others[next]
					next++
				}
				f.Node.Controllers = append(f.Node.Controllers, one)
			}
			f.Node.Name, f.Node.Targets[0].Name = names[test.own], names[test.own]
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := f.Reconcile(ctx)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			calls := strings.Join(m.log, "\n")
			if test.calls != "" && !strings.Contains(calls, test.calls) || test.calls == "" && (strings.Contains(calls, "join") || strings.Contains(calls, "init")) {
				t.Errorf("calls:\n%s\nwanted %q", calls, test.calls)
			}
			if strings.Contains(calls, "force") {
				t.Errorf("the swarm was opened by force:\n%s", calls)
			}
		})
	}
}

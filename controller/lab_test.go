//go:build linux

package controller_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/bridgeport"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// labEnv tells the test binary what it is to be on a machine of a lab.
const labEnv = "HATCHERY_CONTROLLER_TEST"

func init() {
	// Before TestMain: the machines' processes are no tests.
	var err error
	switch os.Getenv(labEnv) {
	case "":
		return
	case "serve":
		err = labService(os.Args[1])
	case "call":
		err = labCall(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// labService is the service on the lab's controller.
func labService(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	node, err := nodefile.Read(filepath.Join(dir, "etc", "node.json"))
	if err != nil {
		return err
	}
	id, err := enrol.LoadIdentity(filepath.Join(dir, "etc"))
	if err != nil {
		return err
	}
	engine, err := swarm.Open("unix://" + filepath.Join(dir, "docker.sock"))
	if err != nil {
		return err
	}
	defer engine.Close()
	return controller.Serve(ctx, controller.Options{
		Node: node, Identity: id, StateDir: filepath.Join(dir, "state", "controller"), Engine: engine,
		Socket: filepath.Join(dir, "run", "hatchery.sock"),
		Clock:  func(context.Context) (string, bool, error) { return "operator", true, nil },
		Ports:  bridgeport.SlotOf,
		Log:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Times:  controller.Times{Settle: time.Second, Rotate: time.Hour},
	})
}

// A labAnswer is what a call on a lab's machine gave.
type labAnswer struct {
	Join   *enrol.JoinAnswer
	Token  string
	Rejoin bool
	Code   string
	Detail string
}

// labCall makes one call: an identity's folder, the address to call from, the
// path, the body.
func labCall(args []string) error {
	id, err := enrol.LoadIdentity(args[0])
	if err != nil {
		return err
	}
	client := enrol.NewClient(id, clusterctrl.ControllerAddr(), enrol.ClientOptions{Local: netip.MustParseAddr(args[1])})
	var a labAnswer
	switch args[2] {
	case enrol.PathJoin:
		var r enrol.JoinRequest
		if err := json.Unmarshal([]byte(args[3]), &r); err != nil {
			return err
		}
		if a.Join, err = client.Join(context.Background(), r); err == nil {
			a.Token = string(a.Join.JoinToken)
		}
	case enrol.PathStatus:
		var r enrol.StatusReport
		if err := json.Unmarshal([]byte(args[3]), &r); err != nil {
			return err
		}
		var s *enrol.StatusAnswer
		if s, err = client.Status(context.Background(), r); err == nil {
			a.Rejoin = s.Rejoin
		}
	}
	if err != nil {
		var refused *enrol.Error
		if !errors.As(err, &refused) {
			return err
		}
		a.Code, a.Detail = string(refused.Code), refused.Detail
	}
	return json.NewEncoder(os.Stdout).Encode(a)
}

// A realSwarm is a lab with a service.
type realSwarm struct {
	t       *testing.T
	lab     *enginetest.Lab
	store   *identity.Store
	service *enginetest.Process
	boots   int
	boot    map[int]string
}

func (r *realSwarm) must(errs ...error) {
	r.t.Helper()
	for _, err := range errs {
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// flash gives a machine what its image has of its identity, and a fresh boot.
func (r *realSwarm) flash(m *enginetest.Machine) {
	r.t.Helper()
	files, err := r.store.Target(name(m.Slot), m.Slot, m.Hostname)
	r.must(err,
		os.WriteFile(filepath.Join(m.Etc(), "key.pem"), files.Key, 0o600),
		os.WriteFile(filepath.Join(m.Etc(), "certificate.pem"), files.Certificate, 0o600),
		os.WriteFile(filepath.Join(m.Etc(), "ca.pem"), files.CA, 0o600))
	r.boots++
	r.boot[m.Slot] = fmt.Sprintf("boot-%d", r.boots)
}

func (r *realSwarm) self(m *enginetest.Machine, what string, args ...string) *exec.Cmd {
	r.t.Helper()
	self, err := os.Executable()
	r.must(err)
	cmd := m.Command(context.Background(), self, args...)
	cmd.Env = append(os.Environ(), labEnv+"="+what)
	return cmd
}

func (r *realSwarm) serve() {
	r.t.Helper()
	m := r.lab.Controller
	var err error
	r.service, err = m.Go("serve", r.self(m, "serve", m.Dir))
	r.must(err)
	eventually(r.t, func() error { _, err := r.client().Cluster(r.t.Context()); return err })
	eventually(r.t, func() error {
		return m.Do(func() error {
			c, err := net.Dial("tcp", netip.AddrPortFrom(m.Addr, enrol.Port).String())
			if err == nil {
				c.Close()
			}
			return err
		})
	})
}

func (r *realSwarm) client() *controller.Client {
	return controller.Dial(filepath.Join(r.lab.Controller.Run(), "hatchery.sock"))
}

// call calls from a machine, as whoever its identity says, or another's. Where
// it has called too often it waits, as an agent does.
func (r *realSwarm) call(m *enginetest.Machine, identity, from, path string, body any) labAnswer {
	r.t.Helper()
	data, err := json.Marshal(body)
	r.must(err)
	for {
		out, err := r.self(m, "call", identity, from, path, string(data)).Output()
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			r.t.Fatalf("%s: %s", m.Name, ended.Stderr)
		}
		r.must(err)
		var a labAnswer
		r.must(json.Unmarshal(out, &a))
		if a.Code != string(controller.TooMany) {
			return a
		}
		time.Sleep(time.Second)
	}
}

func (r *realSwarm) member(m *enginetest.Machine) enrol.SwarmState {
	r.t.Helper()
	i, err := m.Engine().Info(r.t.Context())
	r.must(err)
	s := enrol.SwarmState{State: string(i.State), NodeID: i.NodeID}
	if i.State != swarm.Inactive {
		_, s.ClusterID, _, _, _, _ = swarm.CertificateOf(m.DockerRoot())
	}
	return s
}

func (r *realSwarm) ask(m *enginetest.Machine) labAnswer {
	r.t.Helper()
	return r.call(m, m.Etc(), m.Addr.String(), enrol.PathJoin, enrol.JoinRequest{BootID: r.boot[m.Slot], Swarm: r.member(m)})
}

func (r *realSwarm) tell(m *enginetest.Machine) labAnswer {
	r.t.Helper()
	return r.call(m, m.Etc(), m.Addr.String(), enrol.PathStatus,
		enrol.StatusReport{BootID: r.boot[m.Slot], Seq: time.Now().UnixNano(), Step: "steady", Swarm: r.member(m)})
}

// up has a machine's engine join as it is told. waited says that it was told
// to wait before.
func (r *realSwarm) up(m *enginetest.Machine) (waited bool) {
	r.t.Helper()
	eventually(r.t, func() error {
		a := r.ask(m)
		if a.Code != "" {
			return fmt.Errorf("%s: %s", a.Code, a.Detail)
		}
		if a.Join.Action == enrol.Wait {
			waited = true
			return errors.New(a.Join.Reason)
		}
		if a.Join.Action == enrol.LeaveAndJoin {
			r.must(m.Engine().Leave(r.t.Context(), true))
		}
		if a.Join.Action == enrol.Stay {
			return nil
		}
		return m.Engine().Join(r.t.Context(), swarm.JoinOptions{Remotes: a.Join.RemoteAddrs, Token: a.Token, Addr: m.Addr, Availability: a.Join.Availability})
	})
	eventually(r.t, func() error {
		if a := r.tell(m); a.Code != "" || a.Rejoin || r.member(m).State != "active" {
			return fmt.Errorf("not yet: %+v, %+v", a, r.member(m))
		}
		return nil
	})
	return waited
}

// settled waits for the controller's list of nodes, without the IDs and the
// labels that all have.
func (r *realSwarm) settled(want string) {
	r.t.Helper()
	eventually(r.t, func() error {
		nodes, err := r.lab.Controller.Engine().Nodes(r.t.Context())
		if err != nil {
			return err
		}
		var lines []string
		for _, n := range nodes {
			if n.Manager {
				continue
			}
			line := fmt.Sprintf("%s %s %s", n.Addr, n.State, n.Availability)
			for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
				if k != "disk" && k != "hatchery.model" && k != "hatchery.arch" {
					line += " " + k + "=" + n.Labels[k]
				}
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		if have := strings.Join(lines, "\n"); have != want {
			return fmt.Errorf("the list of nodes is\n%s\nand should be\n%s", have, want)
		}
		return nil
	})
}

// With real engines: what a fake one does is only what was thought of.
func TestRealSwarm(t *testing.T) {
	r := &realSwarm{t: t, lab: enginetest.New(t, enginetest.Options{Slots: []int{1, 2}}), boot: map[int]string{}}
	var err error
	r.store, err = identity.Open(filepath.Join(t.TempDir(), "identity"), "homelab")
	r.must(err)
	ctx, manager, p1, p2 := t.Context(), r.lab.Controller, r.lab.Slot(1), r.lab.Slot(2)
	file := nodeFile(2)
	file.ControllerAddr, file.Address = manager.Addr, netip.PrefixFrom(manager.Addr, 24)
	file.Targets[0].Address, file.Targets[1].Address, file.Targets[2].Address = manager.Addr, p1.Addr, p2.Addr
	data, err := file.Marshal()
	r.must(err, os.WriteFile(filepath.Join(manager.Etc(), "node.json"), data, 0o644))
	for _, m := range r.lab.Machines() {
		r.flash(m)
		r.must(m.StartEngine(ctx))
	}
	r.serve()

	// No swarm, no token.
	if a := r.ask(p1); a.Code != "swarm-not-ready" {
		t.Errorf("without a swarm: %+v", a)
	}
	_, err = manager.Engine().Init(ctx, swarm.InitOptions{Addr: manager.Addr})
	r.must(err)
	r.up(p1)
	r.up(p2)
	const both = "172.19.181.1 ready active hatchery.slot=p1\n172.19.181.2 ready active hatchery.slot=p2"
	r.settled(both)

	// An engine that was killed, and a machine that rebooted.
	p1.KillEngine()
	r.boots++
	r.boot[1] = fmt.Sprintf("boot-%d", r.boots)
	r.must(p1.StartEngine(ctx))
	r.up(p1)
	r.settled(both)

	// A rebuilt card, with the service killed meanwhile.
	id := r.member(p1).NodeID
	n, err := manager.Engine().Node(ctx, id)
	r.must(err)
	n.Labels["rack"] = "left"
	r.must(manager.Engine().UpdateNode(ctx, id, n.Version, swarm.NodeSpec{Labels: n.Labels, Availability: "drain"}))
	r.must(p1.Wipe())
	r.service.Kill()
	r.serve()
	r.flash(p1)
	r.must(p1.StartEngine(ctx))
	if !r.up(p1) {
		t.Log("the old entry was down already when the rebuilt card asked")
	}
	r.settled("172.19.181.1 ready drain hatchery.slot=p1 rack=left\n172.19.181.2 ready active hatchery.slot=p2")

	// Another's certificate: from the own address, and from the other's.
	body := enrol.JoinRequest{BootID: "thief", Swarm: enrol.SwarmState{State: "inactive"}}
	if a := r.call(p1, p2.Etc(), p1.Addr.String(), enrol.PathJoin, body); a.Code != "wrong-address" {
		t.Errorf("another slot's certificate from the own address: %+v", a)
	}
	r.must(p2.Disconnect())
	run := func(m *enginetest.Machine, words ...string) {
		t.Helper()
		if out, err := m.Command(ctx, "ip", words...).CombinedOutput(); err != nil {
			t.Fatalf("%s: ip %q: %v: %s", m.Name, words, err, out)
		}
	}
	run(p1, "address", "add", p2.Addr.String()+"/24", "dev", p1.Link())
	run(manager, "neighbor", "flush", "dev", manager.Link()) // it would still send to p2
	if a := r.call(p1, p2.Etc(), p2.Addr.String(), enrol.PathJoin, body); a.Code != "wrong-address" || !strings.Contains(a.Detail, "port") {
		t.Errorf("another slot's certificate and address: %+v", a)
	}
	run(p1, "address", "delete", p2.Addr.String()+"/24", "dev", p1.Link())
	run(manager, "neighbor", "flush", "dev", manager.Link())
	r.must(p2.Connect())

	// Removed from the list by hand: only the controller can tell the node.
	r.must(manager.Engine().RemoveNode(ctx, r.member(p1).NodeID, true))
	eventually(t, func() error {
		if r.member(p1).State != "active" {
			return nil // the engine has noticed
		}
		if a := r.tell(p1); !a.Rejoin {
			return fmt.Errorf("a node that was removed is answered %+v", a)
		}
		return nil
	})
	if a := r.ask(p1); a.Join == nil || a.Join.Action != enrol.LeaveAndJoin && a.Join.Action != enrol.Join {
		t.Errorf("a node that was removed is told %+v", a)
	}
	r.up(p1)
	r.settled("172.19.181.1 ready drain hatchery.slot=p1 rack=left\n172.19.181.2 ready active hatchery.slot=p2")

	// Revoked: its entry goes, and the token that it was given is worthless.
	before, err := manager.Engine().Cluster(ctx)
	r.must(err)
	rev, err := r.client().Revoke(ctx, 1)
	if err != nil || len(rev.Removed) != 1 || !rev.Rotated || rev.Pending != "" {
		t.Errorf("revoking gives %+v, %v", rev, err)
	}
	r.settled("172.19.181.2 ready active hatchery.slot=p2")
	if a := r.ask(p1); a.Code != "revoked" {
		t.Errorf("the revoked card is answered %+v", a)
	}
	r.must(p1.Wipe(), p1.StartEngine(ctx))
	err = p1.Engine().Join(ctx, swarm.JoinOptions{Remotes: []string{netip.AddrPortFrom(manager.Addr, swarm.Port).String()}, Token: before.WorkerToken, Addr: p1.Addr, Availability: "active"})
	if !errors.Is(err, swarm.ErrBadToken) {
		t.Errorf("joining with the token of before gives %v", err)
	}
	_, err = r.store.Renew("p1", 1, p1.Hostname)
	r.must(err, p1.Wipe(), p1.StartEngine(ctx))
	r.flash(p1)
	r.up(p1)
	r.settled("172.19.181.1 ready drain hatchery.slot=p1 rack=left\n172.19.181.2 ready active hatchery.slot=p2")
}

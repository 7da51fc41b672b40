//go:build linux

package enginetest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/enginetest"
	"hatchery/internal/swarm"
)

// asLab has the test binary make a lab, tell where it is, and wait: to be
// killed (TestKilled).
const asLab = "HATCHERY_TEST_LAB"

func TestMain(m *testing.M) {
	if os.Getenv(asLab) != "" {
		os.Args = []string{os.Args[0], "-test.run=^TestLabOfItsOwn$"}
	}
	os.Exit(m.Run())
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits till a state is reached.
func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for start := time.Now(); !reached(); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > 3*time.Minute {
			t.Fatalf("never: %s", what)
		}
	}
}

// joined starts all engines of a lab and makes a swarm of them.
func joined(t *testing.T, lab *enginetest.Lab) {
	t.Helper()
	ctx := t.Context()
	for _, m := range lab.Machines() {
		must(t, m.StartEngine(ctx))
	}
	_, err := lab.Controller.Engine().Init(ctx, swarm.InitOptions{Addr: lab.Controller.Addr})
	must(t, err)
	for _, m := range lab.Slots() {
		join(t, lab, m)
	}
}

func join(t *testing.T, lab *enginetest.Lab, m *enginetest.Machine) {
	t.Helper()
	cluster, err := lab.Controller.Engine().Cluster(t.Context())
	must(t, err)
	remote := fmt.Sprintf("%s:%d", lab.Controller.Addr, swarm.Port)
	must(t, m.Engine().Join(t.Context(), swarm.JoinOptions{Remotes: []string{remote}, Token: cluster.WorkerToken, Addr: m.Addr}))
}

// list is what the controller's node list says, a line a node; or that there is none,
// as a manager that was started a moment ago may say.
func list(t *testing.T, lab *enginetest.Lab) string {
	t.Helper()
	nodes, err := lab.Controller.Engine().Nodes(t.Context())
	if err != nil {
		return err.Error()
	}
	var lines []string
	for _, n := range nodes {
		lines = append(lines, fmt.Sprintf("%s %s %s\n", n.Hostname, n.Addr, n.State))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func eventuallyList(t *testing.T, lab *enginetest.Lab, want string) {
	t.Helper()
	want = strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "\t", "")
	var last string
	defer func() {
		if last != want {
			t.Logf("the node list is\n%s", last)
		}
	}()
	eventually(t, "the node list is\n"+want, func() bool {
		last = list(t, lab)
		return last == want
	})
}

// TestSwarm has what may happen to machines happen to those of a swarm.
func TestSwarm(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	lab := enginetest.New(t, enginetest.Options{Slots: []int{1, 17}})
	joined(t, lab)
	all := `
		controller 172.19.181.254 ready
		p1 172.19.181.1 ready
		p17 172.19.181.17 ready
	`
	eventuallyList(t, lab, all)
	p1, p17 := lab.Slot(1), lab.Slot(17)

	// A power cut, and a cable that is cut.
	p1.KillEngine()
	must(t, p17.Disconnect())
	eventuallyList(t, lab, `
		controller 172.19.181.254 ready
		p1 172.19.181.1 down
		p17 172.19.181.17 down
	`)
	must(t, p1.StartEngine(ctx), p17.Connect())
	eventuallyList(t, lab, all)

	// The cable is pulled and put back, and the engine restarted.
	must(t, p17.Unplug())
	must(t, p17.Plug())
	must(t, lab.Controller.RestartEngine(ctx))
	eventuallyList(t, lab, all)

	// A re-flashed card: it knows of no swarm, and joins as another node.
	kept, gone := filepath.Join(p1.Etc(), "node.json"), filepath.Join(p1.State(), "state.json")
	must(t, os.WriteFile(kept, nil, 0o644), os.WriteFile(gone, nil, 0o644), p1.Wipe())
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(gone); err == nil {
		t.Errorf("%s has outlived the wiping", gone)
	}
	if err := p1.Engine().Ping(ctx); err == nil {
		t.Error("the engine has outlived the wiping")
	}
	must(t, p1.StartEngine(ctx))
	if i, err := p1.Engine().Info(ctx); err != nil || i.State != swarm.Inactive {
		t.Errorf("after the wiping: %+v, %v", i, err)
	}
	join(t, lab, p1)
	eventuallyList(t, lab, `
		controller 172.19.181.254 ready
		p1 172.19.181.1 down
		p1 172.19.181.1 ready
		p17 172.19.181.17 ready
	`)
}

// TestUnits asks what stands for systemd.
func TestUnits(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	lab := enginetest.New(t, enginetest.Options{})
	m := lab.Slot(1)
	units := enginetest.DialUnits(m.UnitsSocket())
	state := func(want, reason string) {
		t.Helper()
		active, why, err := units.UnitState(ctx, enginetest.DockerService)
		if err != nil || active != want || !strings.Contains(why, reason) || (why == "") != (reason == "") {
			t.Errorf("docker.service is %s (%s), %v; want %s (%s)", active, why, err, want, reason)
		}
	}
	state("inactive", "")
	must(t, units.StartUnit(ctx, enginetest.DockerService), m.Engine().Ping(ctx))
	state("active", "")
	must(t, units.StartUnit(ctx, enginetest.DockerService), units.StopUnit(ctx, enginetest.DockerSocket))
	state("active", "")
	must(t, units.StopUnit(ctx, enginetest.DockerService))
	state("inactive", "")
	if err := m.Engine().Ping(ctx); err == nil {
		t.Error("the engine was stopped, and answers")
	}
	m.RefuseEngine("Result: exit-code, 1")
	if err := units.StartUnit(ctx, enginetest.DockerService); err == nil || !strings.Contains(err.Error(), "exit-code, 1") {
		t.Errorf("a refused start: %v", err)
	}
	state("failed", "exit-code, 1")
	m.RefuseEngine("")

	// An engine that ends by itself: its folder is none.
	must(t, os.RemoveAll(m.DockerRoot()), os.WriteFile(m.DockerRoot(), nil, 0o644))
	if err := units.StartUnit(ctx, enginetest.DockerService); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("an engine that cannot start: %v", err)
	}
	state("failed", "exit status 1")

	if err := units.StartUnit(ctx, "ssh.service"); err == nil || !strings.Contains(err.Error(), "ssh.service not found") {
		t.Errorf("a unit that is not there: %v", err)
	}
	if err := enginetest.DialUnits(m.UnitsSocket()+"x").StopUnit(ctx, enginetest.DockerService); err == nil {
		t.Error("a machine that is not there has stopped its engine")
	}
}

// TestRestart: with Options.Restart a killed engine comes back, and a stopped
// one does not.
func TestRestart(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	lab := enginetest.New(t, enginetest.Options{Restart: true})
	m := lab.Slot(1)
	must(t, m.StartEngine(ctx))
	for range 2 {
		m.KillEngine()
		eventually(t, "the engine is back", func() bool { return m.Engine().Ping(ctx) == nil })
	}
	must(t, m.StopEngine())
	time.Sleep(3 * time.Second) // it would be back by now
	if err := m.Engine().Ping(ctx); err == nil {
		t.Error("the engine was stopped, and has come back")
	}
}

// hear is what a listener on one machine hears from another, by address.
func hear(t *testing.T, to *enginetest.Machine, addr string, from *enginetest.Machine) (string, error) {
	t.Helper()
	var l net.Listener
	must(t, to.Do(func() (err error) { l, err = net.Listen("tcp4", addr); return err }))
	defer l.Close()
	heard := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		defer c.Close()
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		heard <- host
	}()
	err := from.Do(func() error {
		c, err := net.DialTimeout("tcp4", addr, 30*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = io.ReadAll(c)
		return err
	})
	if err != nil {
		return "", err
	}
	return <-heard, nil
}

// TestNetwork: slots reach the controller and each other with their own
// addresses, by the plan's MACs, also while the controller's engine runs.
func TestNetwork(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	lab := enginetest.New(t, enginetest.Options{Slots: []int{1, 2}, Uplink: true})
	c, p1, p2 := lab.Controller, lab.Slot(1), lab.Slot(2)
	must(t, c.StartEngine(ctx))
	for _, test := range []struct {
		from, to   *enginetest.Machine
		addr, want string
	}{
		{p1, c, "172.19.181.254:7443", "172.19.181.1"},
		{c, p2, "172.19.181.2:7443", "172.19.181.254"},
		{p1, p2, "172.19.181.2:7443", "172.19.181.1"},
		{c, lab.Uplink, "192.0.2.1:80", "192.0.2.254"},
	} {
		if got, err := hear(t, test.to, test.addr, test.from); err != nil || got != test.want {
			t.Errorf("%s to %s: %q, %v, want %s", test.from.Name, test.addr, got, err, test.want)
		}
	}
	must(t, p2.Disconnect())
	if got, err := hear(t, p2, "172.19.181.2:7443", p1); err == nil {
		t.Errorf("through a cut cable: %q", got)
	}
	got := links(t, c)
	for link, mac := range map[string]string{"br0": "00:22:82:ff:fe:fe", "ethpi1": "00:22:82:ff:fe:01", "ethpi2": "00:22:82:ff:fe:02"} {
		if got[link] != mac {
			t.Errorf("the controller's %s is %s, want %s", link, got[link], mac)
		}
	}
	if got := links(t, p2)["usb0"]; got != "00:22:82:ff:ff:02" {
		t.Errorf("p2's end of its cable is %s", got)
	}
	name, err := p1.Command(ctx, "hostname").Output()
	if err != nil || string(name) != "p1\n" {
		t.Errorf("p1 calls itself %q, %v", name, err)
	}
}

// links are a machine's interfaces and their MACs.
func links(t *testing.T, m *enginetest.Machine) map[string]string {
	t.Helper()
	found := make(map[string]string)
	must(t, m.Do(func() error {
		all, err := net.Interfaces()
		for _, l := range all {
			found[l.Name] = l.HardwareAddr.String()
		}
		return err
	}))
	return found
}

// TestBare: there are only cables.
func TestBare(t *testing.T) {
	t.Parallel() // engines are waited for
	lab := enginetest.New(t, enginetest.Options{Slots: []int{3}, Bare: true})
	if diff := cmp.Diff(map[string]string{"lo": "", "ethpi3": "00:22:82:ff:fe:03"}, links(t, lab.Controller)); diff != "" {
		t.Errorf("the controller (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"lo": "", "usb0": "00:22:82:ff:ff:03"}, links(t, lab.Slot(3))); diff != "" {
		t.Errorf("p3 (-want +got):\n%s", diff)
	}
	out, err := lab.Slot(3).Command(t.Context(), "ip", "-o", "addr", "show").Output()
	must(t, err)
	if bytes.Contains(out, []byte("usb0")) {
		t.Errorf("p3 has addresses: %s", out)
	}
	out, err = lab.Slot(3).Command(t.Context(), "ip", "-br", "link", "show", "dev", "usb0").Output()
	must(t, err)
	if !bytes.Contains(out, []byte("DOWN")) {
		t.Errorf("the cable is not down: %s", out)
	}
}

// TestProcess: a process of a machine is killed by its id, asked to end, and
// its output kept.
func TestProcess(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	lab := enginetest.New(t, enginetest.Options{})
	m := lab.Slot(1)
	polite, err := m.Go("polite", m.Command(ctx, "sh", "-c", `trap 'echo bye; exit 3' TERM; echo "pid $$"; while :; do sleep 0.1; done`))
	must(t, err)
	logged := func(what string) func() bool {
		return func() bool {
			text, _ := os.ReadFile(m.Log("polite"))
			return bytes.Contains(text, []byte(what))
		}
	}
	eventually(t, "the process tells its id", logged(fmt.Sprintf("pid %d\n", polite.Pid)))
	if err := polite.Stop(); err == nil || err.Error() != "exit status 3" {
		t.Errorf("stopped: %v", err)
	}
	if !logged("bye\n")() {
		t.Error("what it said at its end is not in the log")
	}
	stubborn, err := m.Go("stubborn", m.Command(ctx, "sh", "-c", `trap '' TERM; while :; do sleep 0.1; done`))
	must(t, err)
	stubborn.Kill()
	stubborn.Kill()
	if err := stubborn.Wait(ctx); err == nil || err.Error() != "signal: killed" {
		t.Errorf("killed: %v", err)
	}
	if _, err := m.Go("missing", m.Command(ctx, "/does/not/exist")); err != nil {
		t.Errorf("what is missing shows when it is run: %v", err)
	}
	text := func() bool {
		text, _ := os.ReadFile(m.Log("missing"))
		return bytes.Contains(text, []byte("/does/not/exist"))
	}
	eventually(t, "what is missing is told", text)
}

// TestLabOfItsOwn is not a test but what TestKilled kills.
func TestLabOfItsOwn(t *testing.T) {
	if os.Getenv(asLab) == "" {
		t.SkipNow()
	}
	lab := enginetest.New(t, enginetest.Options{})
	m := lab.Slot(1)
	must(t, m.StartEngine(t.Context()))
	p, err := m.Go("sleep", m.Command(t.Context(), "sleep", "1000"))
	must(t, err)
	fmt.Printf("lab %s %s %d\n", m.Dir, m.NetNS(), p.Pid)
	select {}
}

// TestKilled: a test that is killed leaves nothing behind.
func TestKilled(t *testing.T) {
	t.Parallel() // engines are waited for
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), asLab+"=1")
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	var dir, netns string
	var pid int
	_, err = fmt.Fscanf(out, "lab %s %s %d\n", &dir, &netns, &pid)
	_ = c.Process.Kill()
	_ = c.Wait()
	if err != nil {
		enginetest.New(t, enginetest.Options{}) // skips where that cannot be had
		t.Fatalf("no lab: %v\n%s", err, errs.String())
	}
	for _, path := range []string{netns, filepath.Dir(dir), fmt.Sprintf("/proc/%d", pid)} {
		eventually(t, path+" is gone", func() bool {
			_, err := os.Stat(path)
			return os.IsNotExist(err)
		})
	}
	// The engine's processes have the folder's name in their arguments.
	eventually(t, "the engine is gone", func() bool {
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		must(t, err)
		for _, path := range all {
			if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(filepath.Dir(dir))) {
				return false
			}
		}
		return true
	})
}

var _ interface {
	StartUnit(ctx context.Context, name string) error
	StopUnit(ctx context.Context, name string) error
	UnitState(ctx context.Context, name string) (active, reason string, err error)
} = enginetest.DialUnits("")

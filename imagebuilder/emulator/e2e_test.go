package emulator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/imagebuilder/emulator"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/testtool"
)

// How long things may take at most: several times what they take on two cores
// that do nothing else (docs/boot.md), since a machine may be slower, and busy.
const (
	readyLimit   = 20 * time.Minute
	serviceLimit = 10 * time.Minute
	settleLimit  = 5 * time.Minute
	answerLimit  = 30 * time.Second
	pollEvery    = 3 * time.Second
)

// The test app's port, the same on all nodes.
const helloPort = 8080

// clocksApart is how far two guests' clocks may be from one another.
const clocksApart = 5 * time.Second

// cardSize is that of the cards, which are files: more than the images', so that
// there is something to grow into, and a power of two, since QEMU's cards are.
const cardSize = 4 << 30

// TestEndToEnd is all of it: images that hatchery builds, flashed onto cards, boot on two emulated Zeros that are wired together, become
// a swarm by themselves, and do a swarm's work.
func TestEndToEnd(t *testing.T) {
	if os.Getenv("HATCHERY_E2E") != "1" {
		t.Skip("boots two emulated boards, which takes both cores for minutes: make e2e")
	}
	s := newScenario(t, false)
	s.begins()
	s.part("the swarm lists both, with their labels", s.list)
	s.part("their roots have the cards' size", s.grown)
	s.part("a service has a replica on each, and logs from both", s.serve)
	s.part("the routing mesh answers at the other node's address", s.mesh)
	s.part("tasks reach one another over an overlay network", s.overlay)
	s.part("p1's card is thrown away, and p1 takes its old place", s.renew)
	s.part("guests start in 1970, and then agree on the time", s.clocks)
	s.part("where the time went", s.analyse)
}

// TestDeclaredEndToEnd is the same with what runs declared in cluster.yaml: stack, network,
// secret and config, three tasks, and the cluster's registry, from which they take what was
// pushed there. Two emulated boards need half an hour and more for it, so it is of the soak.
func TestDeclaredEndToEnd(t *testing.T) {
	if os.Getenv("HATCHERY_E2E") != "declared" {
		t.Skip("boots two emulated boards that run a stack, which takes both cores for more than half an hour: make soak")
	}
	s := newScenario(t, true)
	s.begins()
	s.part("what cluster.yaml declares answers, and nobody has logged in", s.greeted)
	s.part("the swarm lists both, with their labels", s.list)
	s.part("their roots have the cards' size", s.grown)
	s.part("a service has replicas on each, and logs from both", s.serve)
	s.part("network, secret and config are the swarm's, and no secret is left on the card", s.declared)
	s.part("the routing mesh answers at the other node's address", s.mesh)
	s.part("tasks reach one another over an overlay network", s.overlay)
	s.part("what is pushed to the cluster's registry runs on both", s.registry)
	s.part("where the time went", s.analyse)
}

// begins builds, flashes and boots.
func (s *scenario) begins() {
	s.part("two images are built", s.build)
	s.part("they are flashed, from base and layers", s.flash)
	s.part("both boot, and are Ready by themselves", s.boot)
}

// A scenario is the state of TestEndToEnd, or of TestDeclaredEndToEnd.
type scenario struct {
	declares bool // what runs stands in cluster.yaml
	t        *testing.T
	ctx      context.Context
	dir      string // what is kept: consoles, events, the time line

	hatchery, base string
	cluster        string // the folder with cluster.yaml
	rig            *emulator.Rig
	switchedOn     time.Time
	line           timeline
	events         *os.File
	began          time.Time

	account        *account
	controller, p1 *guestShell
	engine         engine
	before         member // p1's entry before it was renewed
	analysis       string
	pushed         []byte // the archive of pushedImage
}

func newScenario(t *testing.T, declares bool) *scenario {
	t.Helper()
	testtool.Need(t, "qemu-system-arm")
	s := &scenario{declares: declares, t: t, ctx: t.Context(), began: time.Now()}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if s.base = os.Getenv("HATCHERY_BASE_BOOKWORM"); s.base == "" {
		testtool.Missing(t, "HATCHERY_BASE_BOOKWORM=$(make -s print-base)")
	}
	s.hatchery = filepath.Join(root, "bin", "hatchery")
	if _, err := os.Stat(s.hatchery); err != nil {
		testtool.Missing(t, "bin/hatchery (make build)")
	}
	if s.dir = os.Getenv("HATCHERY_E2E_DIR"); s.dir == "" {
		s.dir = filepath.Join(root, "build", "e2e")
	}
	// A folder that is not there is made here, and what an earlier run left
	// in it goes: never anything else of a folder that somebody named.
	s.cluster = filepath.Join(s.dir, "cluster")
	for _, old := range []string{s.cluster, s.consoles(), filepath.Join(s.dir, "events.txt"), filepath.Join(s.dir, "timeline.txt")} {
		if err := os.RemoveAll(old); err != nil {
			t.Fatal(err)
		}
	}
	// Images and cards hold private keys.
	if err := os.MkdirAll(s.cluster, 0o700); err != nil {
		t.Fatal(err)
	}
	if s.events, err = os.Create(filepath.Join(s.dir, "events.txt")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func (s *scenario) consoles() string { return filepath.Join(s.dir, "consoles") }

func (s *scenario) path(names ...string) string {
	return filepath.Join(append([]string{s.cluster}, names...)...)
}

// close switches everything off. The images stay where something failed.
func (s *scenario) close() {
	s.p1.close()
	s.controller.close()
	if s.rig != nil {
		if err := s.rig.Close(); err != nil {
			s.t.Errorf("the rig does not close: %v", err)
		}
		s.keep("timeline.txt", s.line.String()+s.analysis)
	}
	s.events.Close()
	if !s.t.Failed() {
		if err := os.RemoveAll(s.cluster); err != nil {
			s.t.Error(err)
		}
	}
}

// keep writes a file that is kept.
func (s *scenario) keep(name, text string) {
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		s.t.Error(err)
	}
}

// part does a part of the scenario, which goes on only where it came to its
// end. A failure shows where the guests stand.
func (s *scenario) part(name string, do func(t *testing.T)) {
	s.t.Helper()
	if !s.t.Run(name, func(t *testing.T) {
		began := time.Now()
		defer func() {
			if t.Failed() {
				s.show(t)
			}
			t.Logf("%.0f s, of %.0f s altogether", time.Since(began).Seconds(), time.Since(s.began).Seconds())
		}()
		do(t)
	}) {
		s.t.FailNow()
	}
}

// show prints where the guests stand, what their consoles said last, and
// what the agents did, where one gets there.
func (s *scenario) show(t *testing.T) {
	if s.rig == nil {
		return
	}
	const tail = 40
	for _, status := range s.rig.Status() {
		t.Logf("%s: %s, last of %s, after %.0f s; reached %v; %d timer events given back, %d reboots, %d retries; %d frames, %d bytes on its cable",
			status.Target, status.Phase, status.Latest, status.Seconds, status.Reached, status.Rearmed, status.Reboots, status.Retries, status.Frames, status.Bytes)
		console, err := os.ReadFile(status.Console)
		if err != nil {
			t.Error(err)
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(console)), "\n")
		t.Logf("%s's console, from %s:\n%s", status.Target, status.Console, strings.Join(lines[max(0, len(lines)-tail):], "\n"))
	}
	// Who cannot be reached says so, too.
	const journal = "sudo journalctl --no-pager -o short-monotonic -u hatchery-firstboot -u hatchery -u docker -n 50"
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 2*logInLimit)
	defer cancel()
	controller, err := s.toController(ctx)
	if err != nil {
		t.Log(err)
		return
	}
	said := func(guest *guestShell, command string) {
		out, err := guest.run(ctx, command)
		if err != nil {
			out = err.Error()
		}
		t.Logf("%s:\n%s", guest.name, out)
	}
	said(controller, journal+"; docker node ls; docker service ps --no-trunc "+s.service()+"; sudo hatchery workloads status")
	p1, err := s.toP1(ctx)
	if err != nil {
		t.Log(err)
		return
	}
	said(p1, journal)
}

// eventually asks every few seconds, until it is so; where it never is, it
// says what was there instead.
func (s *scenario) eventually(t *testing.T, what string, limit time.Duration, so func(ctx context.Context) (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	for {
		done, there := so(ctx)
		if done {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %s, not yet: %s; but:\n%s", limit, what, there)
		case <-time.After(pollEvery):
		}
	}
}

// build has the program that users get make the images, as they would.
func (s *scenario) build(t *testing.T) {
	line, private, err := makeKey()
	if err != nil {
		t.Fatal(err)
	}
	program := buildHello(t)
	// Its layer is not the one that the nodes have: a byte follows the program.
	s.pushed = helloArchive(t, append(bytes.Clone(program), 0), pushedImage)
	swarm := "offline: true"
	if s.declares {
		// A guest that starts three tasks and has a registry is later than Docker's five
		// seconds, and what it runs would be begun elsewhere, again and again.
		swarm += ", heartbeat: 30s"
	}
	// apparmor=0: Debian's kernel wants a program for every container that
	// Docker there does not bring (docs/stand-in-base.md).
	text := fmt.Sprintf(`name: e2e
base: {image: %q}
user: {authorized_keys: [./key.pub]}
slots: {p1: {labels: {disk: ssd}}}
docker: {preload: [./hello.tar]}
swarm: {%s}
boot: {cmdline: [apparmor=0]}
`, s.base, swarm)
	if s.declares {
		text += helloDeclared
	}
	for name, content := range map[string][]byte{
		"cluster.yaml": []byte(text), "key": private, "key.pub": line, "hello.tar": helloArchive(t, program, helloImage), "hello.yml": []byte(helloStack),
		"workloads.env": []byte("HELLO_IMAGE=" + helloImage + "\n"), "password": []byte(helloPassword), "greeting": []byte(helloGreeting),
	} {
		if err := os.WriteFile(s.path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(s.ctx, s.hatchery, "build", "-q", "--no-sums", "--cache", filepath.Join(s.dir, "cache"))
	cmd.Dir = s.cluster
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("hatchery build: %v\n%s", err, out)
	}
	if s.declares {
		s.secretBuilt(t)
	}
	if s.account, err = readAccount("pi", s.path("key"), s.path("out", "known_hosts")); err != nil {
		t.Fatal(err)
	}
}

// secretBuilt: until the swarm has it, the secret is in the controller's image, and in no
// other.
func (s *scenario) secretBuilt(t *testing.T) {
	const secret = secretsFolder + "/hello_password"
	if out, err := s.inspect("controller", "cat", "--force", secret); err != nil || out != helloPassword {
		t.Fatalf("the controller's image has %q for the secret (%v)", out, err)
	}
	if out, err := s.inspect("p1", "cat", "--force", secret); err == nil {
		t.Fatalf("p1's image has the secret: %q", out)
	}
}

// inspect looks into an image that was built.
func (s *scenario) inspect(target string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.ctx, s.hatchery, append([]string{"inspect", "-q", s.path("out", target+".img")}, args...)...)
	out, err := cmd.Output()
	return string(out), err
}

// flash puts both onto cards, as users do, without an image between.
func (s *scenario) flash(t *testing.T) {
	if err := os.Mkdir(s.path("cards"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"controller", "p1"} {
		if err := os.Remove(s.path("out", target+".img")); err != nil {
			t.Fatal(err)
		}
		card, err := os.OpenFile(s.card(target), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(card.Truncate(cardSize), card.Close()); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(s.ctx, s.hatchery, "flash", "-q", target, "--to", s.card(target), "--yes", "--cache", filepath.Join(s.dir, "cache"))
		cmd.Dir = s.cluster
		// What is flashed is this user's: sudo's name for another does not count.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SUDO_") })
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("hatchery flash %s: %v\n%s", target, err, out)
		}
		t.Log(strings.TrimSpace(string(out)))
	}
}

// card is the card of a target.
func (s *scenario) card(target string) string { return s.path("cards", target+".img") }

// grown looks at the roots' sizes: the partition's entry was grown when the card
// was flashed, the file system while the node ran.
func (s *scenario) grown(t *testing.T) {
	const least = cardSize - 800<<20 // without the boot partition, and what ext4 takes
	ctx, cancel := context.WithTimeout(s.ctx, 4*logInLimit)
	defer cancel()
	controller, err := s.toController(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p1, err := s.toP1(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, guest := range []*guestShell{controller, p1} {
		out, err := guest.run(ctx, "df -B1 --output=size / | tail -n 1")
		if err != nil {
			t.Fatal(err)
		}
		if size, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64); err != nil || size < least {
			t.Errorf("the root of %s has %q bytes, on a card of %d", guest.name, out, int64(cardSize))
		}
	}
}

// boot switches both on, and does nothing else until they are Ready.
func (s *scenario) boot(t *testing.T) {
	s.line.begin("controller", "controller")
	s.line.begin("p1", "p1 beside it")
	s.switchedOn = time.Now()
	var err error
	s.rig, err = emulator.Start(s.ctx, emulator.Options{
		Guests: []emulator.Guest{
			{Target: "controller", Hostname: "controller", Model: "auto", Image: s.card("controller")},
			{Target: "p1", Slot: 1, Hostname: "p1", Model: "zero", Image: s.card("p1")},
		},
		Dir:     s.consoles(),
		Forward: []emulator.Forward{{Target: "controller", Port: helloPort}},
		Retries: 1,
		Told:    s.told,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range s.rig.Arguments("p1") {
		t.Logf("a kernel argument of the emulator's: %s (%s)", a.Word, a.Why)
	}
	s.reach(t, emulator.Ready)
	s.eventually(t, "both have loaded the test app's image", serviceLimit, func(context.Context) (bool, string) {
		return s.loaded("controller", "p1")
	})
}

// told keeps what the rig tells.
func (s *scenario) told(e emulator.Event) {
	s.line.took(e)
	fmt.Fprintf(s.events, "%8.1f  %-10s %-9s %s\n", e.Seconds, e.Target, e.Kind, strings.Join(slices.DeleteFunc([]string{string(e.Phase), e.Step, e.State, e.Detail}, func(word string) bool { return word == "" }), " "))
}

// reach waits until guests have reached a goal.
func (s *scenario) reach(t *testing.T, goal emulator.Goal, targets ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(s.ctx, readyLimit, fmt.Errorf("not %s after %s", goal, readyLimit))
	defer cancel()
	err := s.rig.Wait(ctx, goal, targets...)
	if failed := (*emulator.GuestError)(nil); errors.As(err, &failed) {
		t.Fatalf("%v\n%s", err, strings.Join(failed.Last, "\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range s.rig.Status() {
		if len(targets) == 0 || slices.Contains(targets, status.Target) {
			t.Logf("%s: %s after %.1f s", status.Target, goal, status.Reached[goal])
		}
	}
}

// service is what the swarm calls the test app.
func (s *scenario) service() string {
	if s.declares {
		return helloService
	}
	return "hello"
}

// loaded says whether guests have loaded what their images brought.
func (s *scenario) loaded(targets ...string) (bool, string) {
	all, there := true, ""
	for _, status := range s.rig.Status() {
		if slices.Contains(targets, status.Target) {
			step := status.Steps["images"]
			all = all && step.State == "done"
			there += fmt.Sprintf("%s: images %s %s\n", status.Target, step.State, step.Detail)
		}
	}
	return all, there
}

// forwarded is the port of this machine that leads to one of the controller's.
func (s *scenario) forwarded(port int) string {
	for _, f := range s.rig.Forwards() {
		if f.Target == "controller" && f.Port == port {
			return fmt.Sprintf("127.0.0.1:%d", f.Local)
		}
	}
	return ""
}

// toController gives the log-in to the controller, the one for everything.
func (s *scenario) toController(ctx context.Context) (*guestShell, error) {
	if s.controller != nil {
		return s.controller, nil
	}
	var err error
	s.controller, err = s.account.logIn(ctx, "controller", func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.forwarded(22))
	})
	return s.controller, err
}

// toP1 gives the log-in to p1, through the controller.
func (s *scenario) toP1(ctx context.Context) (*guestShell, error) {
	if s.p1 != nil {
		return s.p1, nil
	}
	controller, err := s.toController(ctx)
	if err != nil {
		return nil, err
	}
	s.p1, err = s.account.logIn(ctx, "p1", func(ctx context.Context) (net.Conn, error) {
		return controller.dial(ctx, "tcp", net.JoinHostPort(clusterctrl.SlotAddr(1).String(), "22"))
	})
	return s.p1, err
}

// list is the first that anybody logs in.
func (s *scenario) list(t *testing.T) {
	controller, err := s.toController(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.engine = controller.engine()
	s.before = s.settled(t, "")
	s.listed(t)
}

// listed has the command line show what users look at. A guest that has too much
// to do (Docker's networks are being made, programs are read from its card) misses
// a heartbeat of the swarm's, five seconds long, and is shown as down until its
// next session.
func (s *scenario) listed(t *testing.T) {
	t.Helper()
	want := []string{"controller Ready Active Leader", "p1 Ready Active"}
	s.eventually(t, "docker node ls lists both as ready", settleLimit, func(ctx context.Context) (bool, string) {
		out, err := s.controller.run(ctx, `docker node ls --format '{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}' 2>&1`)
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, strings.TrimSpace(line))
		}
		slices.Sort(lines)
		return err == nil && slices.Equal(lines, want), fmt.Sprintf("%q (%v)\n", lines, err)
	})
}

// settled waits until p1 has exactly one entry, with another ID than the one
// before, that works and has its labels, beside the controller's; and gives it.
func (s *scenario) settled(t *testing.T, before string) member {
	t.Helper()
	want := map[string]string{"hatchery.slot": "p1", "hatchery.model": "zero", "hatchery.arch": "armv6", "disk": "ssd"}
	var p1 member
	s.eventually(t, "the swarm has the controller and p1, once each, with their labels", settleLimit, func(ctx context.Context) (bool, string) {
		all, err := s.engine.members(ctx)
		there := fmt.Sprintf("(%v)\n", err)
		for _, m := range all {
			there += fmt.Sprintf("%s %s at %s: %s, %s, %v\n", m.ID, m.Description.Hostname, m.Status.Addr, m.Status.State, m.Spec.Availability, m.Spec.Labels)
		}
		controllers, p1s := named(all, "controller"), named(all, "p1")
		if len(all) != 2 || len(controllers) != 1 || len(p1s) != 1 {
			return false, there
		}
		p1 = p1s[0]
		return controllers[0].Spec.Labels["hatchery.slot"] == "controller" && controllers[0].Status.State == "ready" &&
			p1.ID != before && p1.Status.State == "ready" && p1.Spec.Availability == "active" &&
			p1.Status.Addr == clusterctrl.SlotAddr(1).String() && maps.Equal(p1.Spec.Labels, want), there
	})
	return p1
}

// greeted waits until the test app answers as both nodes, asked from outside: it was
// typed nowhere, it stands in cluster.yaml.
func (s *scenario) greeted(t *testing.T) {
	s.answered(t, outside(), s.forwarded(helloPort), "controller", "p1")
	s.line.reached("controller", "the app answers from both", s.switchedOn)
	t.Logf("%.0f s after the power came on", time.Since(s.switchedOn).Seconds())
}

// serve looks at the test app's tasks, and reads what they say. Where nothing is declared
// it starts them, as a user would.
func (s *scenario) serve(t *testing.T) {
	if !s.declares {
		create := fmt.Sprintf("docker network create --driver overlay greetings && docker service create --name %s --mode global --hostname '{{.Node.Hostname}}'"+
			" --network greetings --publish %d:8080 --no-resolve-image --detach %s", s.service(), helloPort, helloImage)
		if _, err := s.controller.run(s.ctx, create); err != nil {
			t.Fatal(err)
		}
	}
	s.running(t, s.before.ID)
	wanted := map[string]*regexp.Regexp{}
	for _, host := range []string{"controller", "p1"} {
		wanted[host] = regexp.MustCompile(`(?m)^` + s.service() + `\.\S+@` + host + `\s+\| hello from ` + host + `: linux/arm\r?$`)
	}
	s.eventually(t, "docker service logs has lines of both", settleLimit, func(ctx context.Context) (bool, string) {
		out, err := s.controller.run(ctx, "docker service logs --tail 3 "+s.service())
		for _, line := range wanted {
			if err != nil || !line.MatchString(out) {
				return false, fmt.Sprintf("%s(%v)", out, err)
			}
		}
		t.Logf("docker service logs:\n%s", out)
		return true, ""
	})
}

// running waits until both the controller and p1, by its entry's ID, run a
// task of the service.
func (s *scenario) running(t *testing.T, p1 string) {
	t.Helper()
	s.eventually(t, "a task runs on each node", serviceLimit, func(ctx context.Context) (bool, string) {
		tasks, err := s.engine.tasks(ctx, s.service())
		there := fmt.Sprintf("(%v)\n", err)
		on := map[string]bool{}
		for _, task := range tasks {
			there += fmt.Sprintf("%s on %s: %s %s\n", task.ID, task.NodeID, task.Status.State, task.Status.Err)
			if task.Status.State == "running" {
				on[task.NodeID] = true
			}
		}
		return len(on) == 2 && on[p1], there
	})
}

// mesh asks at both nodes' addresses. Answers name the node of the task that
// gave them, so one that names another node than the one that was asked has
// come across the mesh, and cannot have come otherwise: the cluster's one link lies between
// them.
func (s *scenario) mesh(t *testing.T) {
	there := httpBy(s.controller.dial, true)
	for _, host := range []struct {
		address string
		client  *http.Client
	}{
		{net.JoinHostPort(clusterctrl.SlotAddr(1).String(), fmt.Sprint(helloPort)), there},
		{net.JoinHostPort(clusterctrl.ControllerAddr().String(), fmt.Sprint(helloPort)), there},
		// From outside, as from the LAN.
		{s.forwarded(helloPort), outside()},
	} {
		s.answered(t, host.client, host.address, "controller", "p1")
	}
}

// outside asks from this machine.
func outside() *http.Client { return httpBy((&net.Dialer{}).DialContext, true) }

// answered asks at an address until all hosts have answered. The mesh gives
// new connections to its tasks in turn.
func (s *scenario) answered(t *testing.T, client *http.Client, address string, hosts ...string) {
	t.Helper()
	said := map[string]int{}
	var last error
	ctx, cancel := context.WithTimeout(s.ctx, serviceLimit)
	defer cancel()
	for ctx.Err() == nil {
		host, err := ask(ctx, client, address, answerLimit)
		switch {
		case errors.Is(err, errSilent):
			last = err
			time.Sleep(time.Second)
			continue
		case err != nil:
			t.Fatalf("%s: %v", address, err)
		}
		said[host]++
		if !slices.ContainsFunc(hosts, func(host string) bool { return said[host] == 0 }) {
			t.Logf("%s was answered by %v", address, said)
			return
		}
		if said[host] > 3 {
			time.Sleep(time.Second) // the guests have other things to do
		}
	}
	t.Fatalf("%s was answered by %v after %s, want all of %v (%v)", address, said, serviceLimit, hosts, last)
}

// overlay asks by the service's name from within a task.
func (s *scenario) overlay(t *testing.T) {
	asking := `task=$(docker ps -q -f label=com.docker.swarm.service.name=` + s.service() + ` | head -n 1) && for n in 1 2 3; do docker exec "$task" /hello --ask http://hello:8080/ || exit; done`
	var hosts []string
	s.eventually(t, "tasks of both answer by the service's name", settleLimit, func(ctx context.Context) (bool, string) {
		out, err := s.controller.run(ctx, asking)
		hosts = nil
		for line := range strings.Lines(out) {
			if host, err := greeter(line); err == nil {
				hosts = append(hosts, host)
			}
		}
		slices.Sort(hosts)
		hosts = slices.Compact(hosts)
		return err == nil && slices.Equal(hosts, []string{"controller", "p1"}), fmt.Sprintf("%s(%v)", out, err)
	})
}

// renew throws p1's card away.
func (s *scenario) renew(t *testing.T) {
	// A connection to the guest that is thrown away leads nowhere.
	s.p1.close()
	s.p1 = nil
	s.line.begin("p1", "p1, its card thrown away")
	if err := s.rig.Renew(s.ctx, "p1"); err != nil {
		t.Fatal(err)
	}
	s.reach(t, emulator.Ready, "p1")
	after := s.settled(t, s.before.ID)
	t.Logf("p1's entry was %s and is %s", s.before.ID, after.ID)
	s.running(t, after.ID)
	// It runs, and the mesh knows.
	s.answered(t, outside(), s.forwarded(helloPort), "p1")
	s.listed(t)
}

// clocks looks at what the kernels took for the time, and what it is now. By
// now the controller is minutes ahead of what p1's new card began with.
func (s *scenario) clocks(t *testing.T) {
	for _, status := range s.rig.Status() {
		console, err := os.ReadFile(status.Console)
		if err != nil {
			t.Fatal(err)
		}
		starts := kernelStarts(string(console))
		if len(starts) == 0 {
			t.Errorf("%s's console does not say what its clock was (%s)", status.Target, status.Console)
		}
		for _, start := range starts {
			if start.Year() != 1970 {
				t.Errorf("%s's clock was %s when its kernel started, want 1970, as on a board without a clock", status.Target, start)
			}
		}
		if !strings.Contains(string(console), "System time before build time, advancing clock") {
			t.Errorf("%s's systemd has not found the clock wrong", status.Target)
		}
		t.Logf("%s's clock was %v when its kernel started", status.Target, starts)
	}
	p1, err := s.toP1(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	one, within1, now, err := s.controller.clock(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	two, within2, _, err := p1.clock(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	apart := (one - two).Abs()
	t.Logf("the controller's clock is %s of this machine's (within %s), p1's %s (within %s): %s apart",
		one.Round(time.Millisecond), within1.Round(time.Millisecond), two.Round(time.Millisecond), within2.Round(time.Millisecond), apart.Round(time.Millisecond))
	if apart > clocksApart+within1+within2 {
		t.Errorf("the clocks are %s apart, want at most %s", apart, clocksApart)
	}
	if now.Year() < 2025 {
		t.Errorf("the controller's clock is %s", now)
	}
}

// analyse asks systemd what took long; last, since that takes the guests long
// as well.
func (s *scenario) analyse(t *testing.T) {
	guests := []*guestShell{s.controller, s.p1}
	said := make([]string, len(guests))
	var both sync.WaitGroup // each has a core
	for i, guest := range guests {
		both.Go(func() {
			out, err := guest.run(s.ctx, "systemd-analyze --no-pager; systemd-analyze --no-pager blame | head -n 15")
			if err != nil {
				// It is for people to read, and takes a guest a minute or more.
				out += fmt.Sprintf("(no answer: %v)\n", err)
			}
			said[i] = fmt.Sprintf("\n%s: systemd-analyze\n\n%s", guest.name, out)
		})
	}
	both.Wait()
	s.analysis = strings.Join(said, "")
	t.Logf("time line\n%s%s", s.line.String(), s.analysis)
	for _, status := range s.rig.Status() {
		t.Logf("%s: %d timer events given back, %d reboots, %d retries; %d frames and %d bytes on its cable", status.Target, status.Rearmed, status.Reboots, status.Retries, status.Frames, status.Bytes)
	}
}

package netboottest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/enginetest"
	"hatchery/internal/nodefile"
	"hatchery/netboot"
	"hatchery/netboot/node/nodetest"
)

// storeDir is where the controller keeps what slots boot; storeRun goes with
// its power.
func (s *scenario) storeDir() string { return filepath.Join(s.controller.State(), "netboot") }
func (s *scenario) storeRun() string { return filepath.Join(s.controller.Run(), "netboot") }

// prepare lays what the controller's image has for it into its folders.
func (s *scenario) prepare(t *testing.T) {
	etc := s.controller.Etc()
	rules := []string{"/etc/hatchery/firewall.nft", "/usr/lib/hatchery/docker-user"}
	identity := []string{"identity/key.pem", "identity/certificate.pem", "identity/ca.pem"}
	var wanted []string
	for _, name := range identity {
		wanted = append(wanted, "/etc/hatchery/"+name)
	}
	files := s.images.read(t, "controller", append(append(wanted, rules...), nodefile.Path)...)
	write := func(name string, content []byte, perm os.FileMode) string {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, perm); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for i, name := range identity {
		write(name, files[wanted[i]], 0o600)
	}
	write("firewall.nft", files[rules[0]], 0o644)
	write("docker-user", files[rules[1]], 0o755)
	s.nodeFile = write("netboot.json", files[nodefile.Path], 0o644)
	// The service for enrolment is a process of its own here, and would boot
	// slots too.
	node, err := nodefile.Parse(files[nodefile.Path])
	if err != nil {
		t.Fatal(err)
	}
	if node.Netboot == nil {
		t.Fatal("the controller's node.json says nothing of netboot")
	}
	node.Netboot = nil
	data, err := node.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	write("node.json", data, 0o644)

	s.nodeInit = filepath.Join(s.controller.Dir, "nodeinit")
	if err := os.WriteFile(s.nodeInit, nodetest.Build(t, "hatchery/cmd/nodeinit"), 0o755); err != nil {
		t.Fatal(err)
	}
	rootBridge(t, s.controller)
	s.guests = newGuests(s.t, s.controller, s.consoles(), s.told)
	world{power: s.guests.power, is: s.guests.powered, boot: s.guests.boot}.serve(s.t, s.short("world"))
	if err := os.Mkdir(s.boots(), 0o700); err != nil {
		t.Fatal(err)
	}
}

func (s *scenario) boots() string { return filepath.Join(s.controller.Dir, "boots") }

// short is a socket with a short path.
func (s *scenario) short(name string) string { return filepath.Join(s.controller.Run(), name) }

// start starts one of the controller's processes.
func (s *scenario) start(t *testing.T, play string) *enginetest.Process {
	t.Helper()
	m := s.controller
	r := role{
		Play: play, Etc: m.Etc(), State: m.State(), Run: m.Run(), DockerRoot: m.DockerRoot(), EngineHost: m.EngineHost(), Units: m.UnitsSocket(),
		Socket: s.short("hatchery.sock"), Firewall: filepath.Join(m.Etc(), "firewall.nft"), DockerUser: filepath.Join(m.Etc(), "docker-user"),
		Node: s.nodeFile, NodeInit: s.nodeInit, World: s.short("world"), Calls: s.short("calls"), Boots: s.boots(),
		StoreDir: s.storeDir(), StoreRun: s.storeRun(),
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.Command(context.Background(), self)
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	p, err := m.Go(play, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// do does something with a slot, as `hatchery netboot` does.
func (s *scenario) do(t *testing.T, slot int, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	if _, err := s.calls().Do(ctx, slot, what); err != nil {
		t.Fatalf("netboot %s p%d: %v", what, slot, err)
	}
}

func (s *scenario) calls() netboot.Client {
	return netboot.Client{Caller: controller.Dial(s.short("calls"))}
}

// slot is where a slot stands.
func (s *scenario) slot(ctx context.Context, n int) (*netboot.SlotView, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	view, err := s.calls().View(ctx)
	if err != nil {
		return nil, err
	}
	for i := range view.Slots {
		if view.Slots[i].Number == n {
			return &view.Slots[i], nil
		}
	}
	return nil, fmt.Errorf("the service knows no slot %d", n)
}

// members lists a slot's entries in the controller's swarm, a line each.
func (s *scenario) members(ctx context.Context, slot int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	nodes, err := s.controller.Engine().Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, n := range nodes {
		if n.Labels["hatchery.slot"] == fmt.Sprintf("p%d", slot) || n.Hostname == fmt.Sprintf("p%d", slot) {
			all = append(all, fmt.Sprintf("%s %s %s %s", n.Hostname, n.Addr, n.State, n.Availability))
		}
	}
	return all, nil
}

// memory is what a process has in memory, now and at most, in KiB.
func memory(pid int) (now, most int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if len(words) == 0 {
			continue
		}
		n, _ := strconv.Atoi(words[0])
		switch name {
		case "VmRSS":
			now = n
		case "VmHWM":
			most = n
		}
	}
	return now, most
}

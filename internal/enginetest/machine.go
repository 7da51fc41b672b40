//go:build linux

package enginetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/vishvananda/netns"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/swarm"
)

// A Machine is a node of a lab: the controller, or what is in a slot.
type Machine struct {
	Name     string // "controller", "p1"
	Slot     int    // 0 for the controller
	Hostname string
	Addr     netip.Addr
	// Dir holds everything of the machine; what it would have on its card
	// lies in the folders below it that the methods name.
	Dir string

	lab    *Lab
	netns  string
	engine engine
	units  *unitServer

	mu        sync.Mutex
	processes []*Process
	others    map[string]Unit // see AddUnit
	client    *swarm.Engine
}

// Etc stands for /etc/hatchery. Wipe leaves it: a re-flashed card has it too.
func (m *Machine) Etc() string { return filepath.Join(m.Dir, "etc") }

// State stands for /var/lib/hatchery.
func (m *Machine) State() string { return filepath.Join(m.Dir, "state") }

// Run stands for /run: its content is gone after a Wipe.
func (m *Machine) Run() string { return filepath.Join(m.Dir, "run") }

// DockerRoot stands for /var/lib/docker.
func (m *Machine) DockerRoot() string { return filepath.Join(m.Dir, "docker") }

// DockerConfig stands for /etc/docker, if a test makes it: the engine sees what is in it,
// and takes its daemon.json.
func (m *Machine) DockerConfig() string { return filepath.Join(m.Dir, "docker-config") }

// EngineHost is the address of the engine's socket, for swarm.Open.
func (m *Machine) EngineHost() string { return "unix://" + filepath.Join(m.Dir, "docker.sock") }

// UnitsSocket is where DialUnits finds what stands for the machine's systemd.
func (m *Machine) UnitsSocket() string { return filepath.Join(m.Dir, "units.sock") }

// NetNS is the path of the machine's network namespace.
func (m *Machine) NetNS() string { return filepath.Join("/run/netns", m.netns) }

// Link is the name of the machine's end of its cable: usb0, or br0 on the
// controller.
func (m *Machine) Link() string {
	if m.Slot == 0 {
		return clusterctrl.Bridge
	}
	return clusterctrl.NodeLink
}

// port is the name of the controller's end of a slot's cable.
func (m *Machine) port() string { return fmt.Sprintf("%s%d", clusterctrl.CardLinkPrefix, m.Slot) }

// folders are what Wipe empties.
func (m *Machine) folders() []string { return []string{m.State(), m.Run(), m.DockerRoot()} }

func (m *Machine) prepare() {
	m.lab.t.Helper()
	for _, dir := range append(m.folders(), m.Etc(), filepath.Join(m.Dir, "log")) {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			m.lab.t.Fatal(err)
		}
	}
	units, err := serveUnits(m)
	if err != nil {
		m.lab.t.Fatal(err)
	}
	m.units = units
}

// close ends what this process does for the machine. The machine's own
// processes are the janitor's.
func (m *Machine) close() {
	m.engine.abandon()
	if m.units != nil {
		m.units.close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.processes {
		p.Kill()
	}
	if m.client != nil {
		_ = m.client.Close()
	}
}

// Engine is a client of the machine's engine, which need not run.
func (m *Machine) Engine() *swarm.Engine {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client == nil {
		var err error
		if m.client, err = swarm.Open(m.EngineHost()); err != nil {
			panic(err) // the address is our own
		}
	}
	return m.client
}

// Command is a process of the machine's: in its network namespace and with its
// host name. Start it, or give it to Go. Its process id is the program's own,
// so killing it kills the program.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + m.NetNS(), "--",
		"unshare", "--uts", "--", "sh", "-c", `hostname "$0" && exec "$@"`, m.Hostname, name}, args...)...)
}

// Docker runs the docker command line with the machine's engine, and gives
// what it printed.
func (m *Machine) Docker(ctx context.Context, args ...string) (string, error) {
	out, err := m.Command(ctx, "docker", append([]string{"--host", m.EngineHost()}, args...)...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return string(out), fmt.Errorf("docker %q on %s: %w", args, m.Name, err)
	}
	return string(out), nil
}

// Do runs f in the machine's network namespace: sockets that f opens are the
// machine's, for as long as they live. What f starts in other goroutines is
// elsewhere, so a dialler that tries several addresses at once, or a resolver,
// is of no use in it.
func (m *Machine) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		defer func() {
			// A thread that cannot go home is not given back: it ends with
			// this goroutine.
			if netns.Set(home) == nil {
				runtime.UnlockOSThread()
			}
		}()
		done <- m.enter(f)
	}()
	return <-done
}

// enter takes the thread into the machine's namespace and runs f there.
func (m *Machine) enter(f func() error) error {
	there, err := netns.GetFromPath(m.NetNS())
	if err != nil {
		return fmt.Errorf("entering the namespace of %s: %w", m.Name, err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		return fmt.Errorf("entering the namespace of %s: %w", m.Name, err)
	}
	return f()
}

// Wipe makes the machine what it is with a newly flashed card: the engine is
// killed, and Docker's folder, State and Run are empty. Processes that were
// started by Go or Command are the caller's to end first.
func (m *Machine) Wipe() error {
	m.engine.powerCut()
	for _, dir := range m.folders() {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("wiping %s: %w", m.Name, err)
		}
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("wiping %s: %w", m.Name, err)
		}
	}
	return nil
}

// Plug plugs a slot's cable in. New has done so.
func (m *Machine) Plug() error {
	c := m.lab.Controller.netns
	var errs []error
	do := func(args ...string) { // what fails first, says why the rest does
		if len(errs) == 0 {
			if err := m.lab.ip(args...); err != nil {
				errs = append(errs, err)
			}
		}
	}
	do("link", "add", "name", m.port(), "address", clusterctrl.ControllerMAC(m.Slot).String(), "netns", c,
		"type", "veth", "peer", "name", m.Link(), "address", clusterctrl.NodeMAC(m.Slot).String(), "netns", m.netns)
	if !m.lab.options.Bare {
		do("-n", c, "link", "set", m.port(), "master", clusterctrl.Bridge, "up")
		do("-n", m.netns, "addr", "add", netip.PrefixFrom(m.Addr, clusterctrl.Network.Bits()).String(), "dev", m.Link())
		do("-n", m.netns, "link", "set", m.Link(), "up")
		do("-n", m.netns, "route", "add", "default", "via", m.lab.Controller.Addr.String())
	}
	return errors.Join(errs...)
}

// Unplug pulls a slot's cable: both of its ends are gone.
func (m *Machine) Unplug() error {
	return m.lab.ip("-n", m.netns, "link", "del", m.Link())
}

// Disconnect cuts a slot's link at the controller's end: the node's has no
// carrier. A controller's agent that runs switches its end on again at once:
// see Block.
func (m *Machine) Disconnect() error {
	return m.lab.ip("-n", m.lab.Controller.netns, "link", "set", m.port(), "down")
}

// Connect undoes Disconnect.
func (m *Machine) Connect() error {
	return m.lab.ip("-n", m.lab.Controller.netns, "link", "set", m.port(), "up")
}

// Block has nothing come through a slot's link any more, in which no end can
// see anything wrong.
func (m *Machine) Block() error { return m.block("-I") }

// Unblock undoes Block.
func (m *Machine) Unblock() error { return m.block("-D") }

func (m *Machine) block(do string) error {
	var errs []error
	for _, rule := range [][]string{{"INPUT", "-i"}, {"OUTPUT", "-o"}} {
		out, err := exec.Command("nsenter", "--net="+m.NetNS(), "--", "iptables", "-w", do, rule[0], rule[1], m.Link(), "-j", "DROP").CombinedOutput()
		if err != nil {
			errs = append(errs, fmt.Errorf("iptables %s %s on %s: %w: %s", do, rule[0], m.Name, err, out))
		}
	}
	return errors.Join(errs...)
}

// sysctl sets a setting of the machine's network namespace.
func (m *Machine) sysctl(path, value string) error {
	return m.Do(func() error {
		// The thread's own: what /proc/sys/net shows goes by who looks.
		return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
	})
}

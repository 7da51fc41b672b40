//go:build linux

package enginetest

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/testtool"
)

// Options are what a Lab is to be like.
type Options struct {
	Slots []int // which slots there are; nil: slot 1
	// Bare leaves the network to whoever is tested: there are only the cables,
	// down and without addresses, and no bridge. Else br0 is there with its
	// ports, and addresses, routes and forwarding are set.
	Bare bool
	// Uplink gives the controller a second link, eth0, to a machine that is
	// the world outside (Lab.Uplink).
	Uplink bool
	// Restart starts an engine anew, one second after it ended unasked, as
	// docker.service does. Else an engine that was killed stays down.
	Restart bool
}

// The uplink's ends.
var (
	uplinkNetwork  = netip.MustParsePrefix("192.0.2.0/24")
	uplinkOutside  = netip.MustParseAddr("192.0.2.1")
	uplinkEndOfOur = netip.MustParseAddr("192.0.2.254")
)

// A Lab is a controller with slots.
type Lab struct {
	Controller *Machine
	Uplink     *Machine // nil without Options.Uplink

	t       testing.TB
	options Options
	dir     string
	name    string // what its namespaces' names begin with
	slots   map[int]*Machine
	all     []*Machine
}

// New makes a lab. No engine runs yet. The test is skipped (on CI: fails)
// where the machine lacks what it takes.
func New(t testing.TB, o Options) *Lab {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"dockerd", "containerd", "docker", "ip", "nsenter", "unshare"} {
		testtool.Need(t, tool)
	}
	if out, err := exec.Command("unshare", "-n", "-m", "sh", "-euc",
		"ip link add name b0 type bridge && ip link add name v0 type veth peer name w0").CombinedOutput(); err != nil {
		testtool.Missing(t, fmt.Sprintf("bridges, veth and namespaces in the kernel (%v: %s)", err, out))
	}
	if o.Slots == nil {
		o.Slots = []int{1}
	}
	// A short path: a socket's name has 107 bytes, and a test's own folder
	// has the test's name in it.
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{t: t, options: o, dir: dir, name: filepath.Base(dir), slots: make(map[int]*Machine)}
	l.Controller = l.machine("controller", 0, clusterctrl.ControllerAddr())
	for _, n := range o.Slots {
		if n < clusterctrl.MinSlot || n > clusterctrl.MaxSlot || l.slots[n] != nil {
			t.Fatalf("there is no slot %d, or twice", n)
		}
		l.slots[n] = l.machine(clusterctrl.SlotName(n), n, clusterctrl.SlotAddr(n))
	}
	if o.Uplink {
		l.Uplink = l.machine("uplink", -1, uplinkOutside)
	}
	l.clean()
	for _, m := range l.all {
		m.prepare()
	}
	l.network()
	return l
}

// Slot is the machine of slot n.
func (l *Lab) Slot(n int) *Machine {
	l.t.Helper()
	m := l.slots[n]
	if m == nil {
		l.t.Fatalf("the lab has no slot %d", n)
	}
	return m
}

// Slots are the machines of all slots, in order.
func (l *Lab) Slots() []*Machine {
	slots := make([]*Machine, 0, len(l.slots))
	for _, m := range l.slots {
		slots = append(slots, m)
	}
	slices.SortFunc(slots, func(a, b *Machine) int { return a.Slot - b.Slot })
	return slots
}

// Machines are the controller and all slots.
func (l *Lab) Machines() []*Machine { return append([]*Machine{l.Controller}, l.Slots()...) }

// Double is another machine on a machine's cable, with the same address and
// host name, and whatever is laid into its folders: a copy of its card. They
// share a network namespace, so that neither is in the way of the other's
// packets.
func (l *Lab) Double(m *Machine) *Machine {
	l.t.Helper()
	d := l.machine(m.Name+"-double", m.Slot, m.Addr)
	d.Hostname, d.netns = m.Hostname, m.netns
	d.prepare()
	return d
}

func (l *Lab) machine(name string, slot int, addr netip.Addr) *Machine {
	m := &Machine{Name: name, Slot: slot, Hostname: name, Addr: addr, Dir: filepath.Join(l.dir, name), lab: l, netns: l.name + "-" + name}
	m.engine.machine = m
	l.all = append(l.all, m)
	return m
}

// janitor ends everything that runs in a lab's namespaces, and removes them
// and its folder. It waits for its standard input to end: that happens when
// the test is over, and also when the test's process is killed. The namespaces
// are the lab's alone, so whatever runs in them was started by it; only the
// test itself, which Machine.Do takes into them, is spared.
const janitor = `
cat >/dev/null
test=$1 dir=$2
shift 2
for ns in "$@"; do
	tries=1000
	while [ -e "/run/netns/$ns" ] && pids=$(ip netns pids "$ns" | grep -vx "$test") && [ "$tries" -gt 0 ]; do
		kill -9 $pids
		tries=$((tries - 1))
		sleep 0.05
	done
	ip netns del "$ns"
done
rm -rf --one-file-system "$dir"
`

// clean has the janitor wait, and sees that nothing is left when the test is
// over.
func (l *Lab) clean() {
	args := []string{"-c", janitor, "janitor", strconv.Itoa(os.Getpid()), l.dir}
	for _, m := range l.all {
		args = append(args, m.netns)
	}
	c := exec.Command("sh", args...)
	c.SysProcAttr = ownSession()
	stdin, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		os.RemoveAll(l.dir)
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		for _, m := range l.all {
			m.close()
		}
		if l.t.Failed() {
			l.showLogs()
		}
		stdin.Close()
		_ = c.Wait() // what it could not do is seen below
		for _, m := range l.all {
			if _, err := os.Stat(m.NetNS()); err == nil {
				l.t.Errorf("the namespace %s is left over", m.netns)
			}
		}
		if _, err := os.Stat(l.dir); err == nil {
			l.t.Errorf("the folder %s is left over", l.dir)
		}
	})
}

// shownLog is how much of a log's end is shown, in bytes.
const shownLog = 12 << 10

func (l *Lab) showLogs() {
	for _, m := range l.all {
		logs, _ := filepath.Glob(filepath.Join(m.Dir, "log", "*.log"))
		for _, log := range logs {
			text := tail(log, shownLog)
			if text == "" {
				continue
			}
			l.t.Logf("%s's %s:\n%s", m.Name, strings.TrimSuffix(filepath.Base(log), ".log"), text)
		}
	}
}

// tail is the end of a file, from the beginning of a line on.
func tail(path string, most int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	cut := false
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, err := f.Seek(-most, io.SeekEnd)
		cut = err == nil
	}
	text, _ := io.ReadAll(io.LimitReader(f, most))
	if cut {
		_, after, _ := strings.Cut(string(text), "\n")
		return "[…]\n" + after
	}
	return string(text)
}

// ip runs ip.
func (l *Lab) ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// must ends the test on the first error of what has to work.
func (l *Lab) must(errs ...error) {
	l.t.Helper()
	for _, err := range errs {
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

// network makes the links.
func (l *Lab) network() {
	l.t.Helper()
	c := l.Controller.netns
	for _, m := range l.all {
		l.must(l.ip("netns", "add", m.netns), l.ip("-n", m.netns, "link", "set", "lo", "up"))
	}
	if !l.options.Bare {
		l.must(
			l.ip("-n", c, "link", "add", "name", clusterctrl.Bridge, "address", clusterctrl.BridgeMAC().String(), "type", "bridge", "forward_delay", "0"),
			l.ip("-n", c, "addr", "add", netip.PrefixFrom(l.Controller.Addr, clusterctrl.Network.Bits()).String(), "dev", clusterctrl.Bridge),
			l.ip("-n", c, "link", "set", clusterctrl.Bridge, "up"),
			// As the controller's sysctl.d has it: an engine that finds
			// forwarding switched on leaves the policy of FORWARD alone.
			l.Controller.sysctl("net/ipv4/ip_forward", "1"),
		)
	}
	for _, m := range l.Slots() {
		l.must(m.Plug())
	}
	if l.Uplink != nil {
		l.must(l.ip("link", "add", "name", "eth0", "netns", c, "type", "veth", "peer", "name", "eth0", "netns", l.Uplink.netns),
			l.ip("-n", l.Uplink.netns, "addr", "add", netip.PrefixFrom(uplinkOutside, uplinkNetwork.Bits()).String(), "dev", "eth0"),
			l.ip("-n", l.Uplink.netns, "link", "set", "eth0", "up"),
			l.ip("-n", c, "addr", "add", netip.PrefixFrom(uplinkEndOfOur, uplinkNetwork.Bits()).String(), "dev", "eth0"),
			l.ip("-n", c, "link", "set", "eth0", "up"),
			l.ip("-n", c, "route", "add", "default", "via", uplinkOutside.String()))
	}
}

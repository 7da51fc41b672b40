package netboottest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
	"hatchery/internal/testtool"
)

// The emulated board, whose device tree lies in the images (virt.dtb). QEMU
// gives its kernel no other one.
var boardArguments = []string{"-cpu", "cortex-a15", "-smp", "1", "-m", "512", "-nodefaults", "-display", "none"}

// guests are the nodes that run, by slot: what fake boards were sent.
type guests struct {
	machine *enginetest.Machine // the controller, at whose end of the cables they are
	qemu    string
	kept    string // where consoles go
	sockets string
	told    func(format string, args ...any)

	mu      sync.Mutex
	on      map[int]bool
	running map[int]*guest
	boots   map[int]int
}

type guest struct {
	process *enginetest.Process
	cable   *cable
	console string // its file
	sent    string // the folder with what the board was sent
}

func newGuests(t *testing.T, m *enginetest.Machine, kept string, told func(format string, args ...any)) *guests {
	t.Helper()
	sockets, err := os.MkdirTemp("", "cable") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	g := &guests{machine: m, qemu: testtool.Need(t, "qemu-system-arm"), kept: kept, sockets: sockets, told: told,
		on: map[int]bool{}, running: map[int]*guest{}, boots: map[int]int{}}
	t.Cleanup(func() {
		for n := clusterctrl.MinSlot; n <= 4; n++ {
			_ = g.power(n, false)
		}
		os.RemoveAll(sockets)
	})
	return g
}

func (g *guests) powered(slot int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.on[slot]
}

// power switches a slot. Off is a power cut: the guest is killed.
func (g *guests) power(slot int, on bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.on[slot] == on {
		return nil
	}
	g.on[slot] = on
	if r := g.running[slot]; r != nil && !on {
		delete(g.running, slot)
		r.process.Kill()
		r.cable.unplug()
	}
	g.told("%s is switched %s", clusterctrl.SlotName(slot), map[bool]string{true: "on", false: "off"}[on])
	return nil
}

// boot starts a guest of exactly what its board was sent.
func (g *guests) boot(slot int, dir string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.on[slot] || g.running[slot] != nil {
		return fmt.Errorf("slot %d has no power, or runs", slot)
	}
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return err
	}
	r := &guest{sent: dir}
	if r.cable, err = plug(g.machine, g.sockets, slot); err != nil {
		return err
	}
	g.boots[slot]++
	r.console = filepath.Join(g.kept, fmt.Sprintf("%s-%d.console", clusterctrl.SlotName(slot), g.boots[slot]))
	console, err := os.Create(r.console)
	if err != nil {
		return err
	}
	defer console.Close()
	args := append([]string{"-M", "virt", "-no-reboot", "-serial", "stdio",
		"-kernel", filepath.Join(dir, "kernel"), "-initrd", filepath.Join(dir, "initramfs"), "-dtb", filepath.Join(dir, "dtb"),
		"-append", strings.TrimSpace(string(line)),
		"-netdev", r.cable.socket("link"), "-device", fmt.Sprintf("virtio-net-device,netdev=link,mac=52:54:00:00:00:%02x", slot)}, boardArguments...)
	cmd := g.machine.Command(context.Background(), g.qemu, args...)
	cmd.Stdout, cmd.Stderr = console, console
	if r.process, err = g.machine.Go("guest-"+clusterctrl.SlotName(slot), cmd); err != nil {
		r.cable.unplug()
		return err
	}
	g.running[slot] = r
	g.told("%s has its boot files, and starts its kernel", clusterctrl.SlotName(slot))
	return nil
}

// of gives a slot's guest, nil where none runs.
func (g *guests) of(slot int) *guest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running[slot]
}

// said is what a slot's present console has said.
func (g *guests) said(slot int) string {
	r := g.of(slot)
	if r == nil {
		return ""
	}
	text, _ := os.ReadFile(r.console)
	return strings.ReplaceAll(string(text), "\r", "")
}

// shell runs a command on a slot's node, by ssh as the user that the image has.
func (g *guests) shell(ctx context.Context, cluster string, slot int, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := g.machine.Command(ctx, "ssh", "-i", filepath.Join(cluster, "key"), "-F", "none",
		"-o", "UserKnownHostsFile="+filepath.Join(cluster, "out", "known_hosts"), "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias="+clusterctrl.SlotName(slot), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR", "pi@"+clusterctrl.SlotAddr(slot).String(), command)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w: %s", clusterctrl.SlotName(slot), command, err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// dumpTree has QEMU write the board's device tree.
func dumpTree(t *testing.T, file string) {
	t.Helper()
	cmd := exec.Command(testtool.Need(t, "qemu-system-arm"), append([]string{"-M", "virt,dumpdtb=" + file}, boardArguments...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("QEMU does not tell its device tree: %v: %s", err, out)
	}
	tree, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// QEMU makes it a MiB long, and adds as much again to one that it is given,
	// which is more than the kernel looks at when it begins. What counts is at
	// its front (Devicetree Specification 0.4, 5.2: offsets and sizes).
	field := func(n int) int { return int(binary.BigEndian.Uint32(tree[4*n:])) }
	if len(tree) < 40 || field(0) != 0xd00dfeed {
		t.Fatalf("QEMU's device tree of %d bytes is none", len(tree))
	}
	end := max(field(2)+field(9), field(3)+field(8))
	if end > len(tree) {
		t.Fatalf("QEMU's device tree of %d bytes ends at %d", len(tree), end)
	}
	binary.BigEndian.PutUint32(tree[4:], uint32(end))
	if err := os.WriteFile(file, tree[:end], 0o644); err != nil {
		t.Fatal(err)
	}
}

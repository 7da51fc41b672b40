package cardtest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
	"hatchery/internal/testtool"
)

// slot is where the card is.
const slot = 1

// A board is p1's: it has power from its start to the test's end, but for the cuts.
type board struct {
	machine  *enginetest.Machine
	qemu     string
	card     *card
	firmware *firmware
	dir      string // of what the firmware loads, and sockets
	kept     string // where consoles go
	told     func(format string, args ...any)
	// usb is what the boot ROM is sent that finds nothing on the card, by names.
	usb func(ctx context.Context) (map[string][]byte, error)

	// between is called between two starts, with what the console said before: the card
	// is in nobody's hands then.
	between func(console string)

	mu      sync.Mutex
	boots   int
	console string // its file
	process *enginetest.Process
	cuts    []cut // the next ones
	done    []cut
	failed  error
	ended   chan struct{}
	stop    context.CancelFunc
}

// A cut is a power cut that is to come.
type cut struct {
	summary string
	when    func(m *meter, off int64, content []byte) bool
	keeps   bool // the card has what was written by then, and not only some of it
}

func newBoard(t *testing.T, m *enginetest.Machine, c *card, dir, kept string, told func(string, ...any)) *board {
	t.Helper()
	b := &board{
		machine: m, qemu: testtool.Need(t, "qemu-system-arm"), card: c, firmware: newFirmware(t), dir: dir, kept: kept, told: told,
		between: func(string) {},
	}
	c.onCut = b.cutPower
	// The cable: the controller's end is a port of br0, as when a gadget shows up.
	link := fmt.Sprintf("%s%d", clusterctrl.CardLinkPrefix, slot)
	for _, line := range []string{
		"tuntap add dev " + link + " mode tap",
		fmt.Sprintf("link set %s address %s master %s up", link, clusterctrl.ControllerMAC(slot), clusterctrl.Bridge),
	} {
		if out, err := b.ip(line); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	return b
}

func (b *board) ip(line string) ([]byte, error) {
	return exec.Command("nsenter", append([]string{"--net=" + b.machine.NetNS(), "--", "ip"}, strings.Fields(line)...)...).CombinedOutput()
}

// received is how many bytes came over the cable to the board, by the kernel's count.
func (b *board) received(t *testing.T) int64 {
	t.Helper()
	out, err := b.ip(fmt.Sprintf("-s -o link show %s%d", clusterctrl.CardLinkPrefix, slot))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, tx, _ := strings.Cut(string(out), "TX:")
	_, numbers, _ := strings.Cut(tx, "\\")
	var n int64
	if _, err := fmt.Sscan(numbers, &n); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return n
}

// on gives the board power, until the test is over.
func (b *board) on(ctx context.Context) {
	ctx, b.stop = context.WithCancel(ctx)
	b.ended = make(chan struct{})
	go func() {
		defer close(b.ended)
		for ctx.Err() == nil {
			if err := b.boot(ctx); err != nil && ctx.Err() == nil {
				b.mu.Lock()
				b.failed = err
				b.mu.Unlock()
				b.told("the board does not start: %v", err)
				return
			}
		}
	}()
}

// off is the end of it.
func (b *board) off() {
	if b.stop == nil {
		return
	}
	b.stop()
	b.cutPower()
	<-b.ended
}

// cutPower takes its power away; it comes back at once.
func (b *board) cutPower() {
	b.mu.Lock()
	p := b.process
	b.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// plan has the power cut at some points, one a start in which the card is written.
func (b *board) plan(cuts ...cut) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cuts, b.done = cuts, nil
}

// wereCut are the cuts that there were.
func (b *board) wereCut() (done []cut, left []cut) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done, b.cuts
}

// err is why the board does not start any more.
func (b *board) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// said is what its console has said since the last start.
func (b *board) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text, _ := os.ReadFile(b.console)
	return strings.ReplaceAll(string(text), "\r", "")
}

// started is how often it was.
func (b *board) started() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.boots
}

// boot is one start, to its end.
func (b *board) boot(ctx context.Context) error {
	l, err := b.firmware.readCard(b.card.file.Name(), b.dir)
	how := "from its card"
	if errors.Is(err, errNoBoot) {
		b.told("the boot ROM finds nothing on the card, and asks over USB")
		how = "over USB"
		var files map[string][]byte
		if files, err = b.usb(ctx); err == nil {
			l, err = b.firmware.readSent(files, b.dir)
		}
	}
	if err != nil {
		return err
	}
	writes := strings.Contains(l.cmdline, "hatchery.root=reimage")
	if writes {
		how += ", to write it"
	}
	b.mu.Lock()
	b.boots++
	b.console = filepath.Join(b.kept, fmt.Sprintf("p1-%d.console", b.boots))
	var next *cut
	if writes && len(b.cuts) > 0 {
		next = new(cut)
		*next = b.cuts[0]
	}
	b.mu.Unlock()
	b.told("start %d: %s", b.boots, how)
	if next != nil {
		b.card.power(func(m *meter, off int64, content []byte) bool {
			if !next.when(m, off, content) {
				return false
			}
			b.mu.Lock()
			b.done, b.cuts = append(b.done, *next), b.cuts[1:]
			b.mu.Unlock()
			b.told("the power is cut: %s (%d bytes written, %d of the boot partition)", next.summary, m.bytes, m.boot)
			return true
		}, next.keeps)
	} else {
		b.card.power(nil, false)
	}
	socket := filepath.Join(b.dir, "card.sock")
	if err := os.RemoveAll(socket); err != nil {
		return err
	}
	stop, err := b.card.serve(ctx, socket)
	if err != nil {
		return err
	}
	defer stop()
	console, err := os.Create(b.console)
	if err != nil {
		return err
	}
	defer console.Close()
	cmd := b.machine.Command(context.Background(), b.qemu, "-M", "virt", "-cpu", "cortex-a15", "-smp", "1", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", l.kernel, "-initrd", l.initramfs, "-append", l.cmdline,
		"-blockdev", "driver=nbd,node-name=card,export=card,server.type=unix,server.path="+socket, "-device", "virtio-blk-device,drive=card",
		"-device", "virtio-rng-device",
		"-netdev", fmt.Sprintf("tap,id=link,ifname=%s%d,script=no,downscript=no", clusterctrl.CardLinkPrefix, slot),
		"-device", "virtio-net-device,netdev=link,mac="+net.HardwareAddr(clusterctrl.NodeMAC(slot)).String())
	cmd.Stdout, cmd.Stderr = console, console
	p, err := b.machine.Go("p1", cmd)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.process = p
	b.mu.Unlock()
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
	}
	stop()
	if ctx.Err() != nil {
		return nil
	}
	said := b.said()
	if strings.TrimSpace(said) == "" {
		return fmt.Errorf("start %d ended without a word", b.boots)
	}
	b.between(said)
	return nil
}

package power_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/hat"
	"hatchery/controller/power"
	"hatchery/internal/netspace"
)

func TestMain(m *testing.M) {
	netspace.Main(m, netspace.Helpers{"links": func(context.Context, []string) error {
		up, err := power.KernelLinks()
		fmt.Println(up)
		return err
	}, "look-after": lookAfter})
}

// TestKernelLinks: a slot's link is up when the kernel has its interface, of either
// name, with a carrier.
func TestKernelLinks(t *testing.T) {
	netspace.Need(t)
	ctl, far := netspace.New(t), netspace.New(t)
	links := func() string { return ctl.Output(ctl.Self(t.Context(), "links")) }
	same(t, "none", links(), "map[]")
	for i, name := range []string{"ethpi1", "ethupi2", "ethpi3", "ethpi04x", "eth4", "ethpi5"} {
		netspace.Cable(ctl, name, fmt.Sprintf("02:00:00:00:01:%02x", i), far, "far"+name, fmt.Sprintf("02:00:00:00:02:%02x", i))
	}
	same(t, "not up", links(), "map[]")
	for _, name := range []string{"ethpi1", "ethupi2", "ethpi3", "ethpi04x", "eth4"} {
		ctl.IP("link set " + name + " up")
		if name != "ethpi3" { // that one's other end is down: no carrier
			far.IP("link set far" + name + " up")
		}
	}
	same(t, "up", links(), "map[1:true 2:true]")
	far.IP("link del farethpi1")
	same(t, "one is gone", links(), "map[2:true]")
}

// lookAfter runs a service on a controller with a HAT, in a folder: the swarm takes
// p2 for ready while there is a file of that name, and each write of the slots'
// power is a line of another.
func lookAfter(ctx context.Context, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	dir := args[0]
	writes, err := os.OpenFile(filepath.Join(dir, "writes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer writes.Close()
	board := &chip{registers: map[byte]byte{hat.RegOut: 0x12}, told: func(out byte) { fmt.Fprintf(writes, "%04b\n", out&0xf) }}
	h, err := hat.Open(hat.Options{Version: "2.6", Bus: board, Lock: filepath.Join(dir, "hat.lock"), Delay: -1})
	if err != nil {
		return err
	}
	s, err := power.New(power.Options{
		Node: controllerNode(2), HAT: h, StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Limits: power.Limits{
			Lost: 300 * time.Millisecond, Boot: 2 * time.Second, Cycles: 3, Stable: time.Second,
			Poll: 20 * time.Millisecond, OffFor: 50 * time.Millisecond,
		},
		Ready: func() (map[int]bool, error) {
			_, err := os.Stat(filepath.Join(dir, "ready"))
			return map[int]bool{2: err == nil}, nil
		},
		Told: func(e controller.Event) { fmt.Println(e.Detail) },
	})
	if err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			if v, err := s.View(ctx); err == nil {
				fmt.Printf("link %s, %d cycles\n", v.Slots[1].Link, v.Slots[1].Cycles)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return s.Run(ctx)
}

// TestLostLinkRecovered: a node whose link is gone, and which the swarm does not hear
// of, is power-cycled until it is back; one that does not come back is left after
// three times.
func TestLostLinkRecovered(t *testing.T) {
	netspace.Need(t)
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	ctl, node := netspace.New(t), netspace.New(t)
	netspace.Cable(ctl, "ethpi2", "00:22:82:ff:fe:02", node, "usb0", "00:22:82:ff:ff:02")
	ctl.IP("link set ethpi2 up")
	up := func(is bool) {
		t.Helper()
		if is {
			node.IP("link set usb0 up")
			if err := os.WriteFile(ready, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err := os.Remove(ready); err != nil {
			t.Fatal(err)
		}
		node.IP("link set usb0 down")
	}
	up(true)
	p := ctl.Start(func(ctx context.Context) *exec.Cmd { return ctl.Self(ctx, "look-after", dir) })
	seen := 0
	await := func(text string) {
		t.Helper()
		netspace.Eventually(t, text, func() error {
			out := p.Printed()
			at := strings.Index(out[seen:], text)
			if at < 0 {
				return fmt.Errorf("it printed %q", out[max(seen, len(out)-2000):])
			}
			seen += at + len(text)
			return nil
		})
	}
	await("link up, 0 cycles")
	up(false)
	await("p2 is power-cycled (1 of 3): its node was ready")
	await("p2 is power-cycled (2 of 3)")
	up(true)
	await("p2 is ready again after ")
	await("link up, 0 cycles") // it has been stable
	up(false)
	for _, text := range []string{"p2 is power-cycled (1 of 3)", "p2 is power-cycled (2 of 3)", "p2 is power-cycled (3 of 3)", "p2 is left alone"} {
		await(text)
	}
	p.Stop()
	writes, err := os.ReadFile(filepath.Join(dir, "writes"))
	if err != nil {
		t.Fatal(err)
	}
	// On a machine that is slow the third may come before the link is up again.
	if got := string(writes); got != strings.Repeat("0000\n0010\n", 5) && got != strings.Repeat("0000\n0010\n", 6) {
		t.Errorf("the expander was told %q", got)
	}
}

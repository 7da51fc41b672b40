package netboottest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"hatchery/internal/clusterctrl"
	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
	"hatchery/netboot/usbhost"
)

// wiring is the HAT's.
var wiring = usbhost.Wiring{Hub: "1-1", Straight: true, Version: "2.6", How: "the test's"}

// A bus has the slots' fake boards. It is a netboot.Bus, and the slots' power
// (slots.Power): switched on, a board asks for its boot files; what it was
// sent then runs as a guest, in another process, which stays where this one is
// killed.
type bus struct {
	world *worldClient
	dir   string // what boards were sent goes below it
	log   *slog.Logger

	mu      sync.Mutex
	boards  map[int]*usbboottest.Board
	devices map[string]attached // by path
	on      map[int]int         // how often a slot was switched on
	number  int
	changed chan struct{} // closed when devices changes
}

// attached is a device that is on the bus.
type attached struct {
	usbhost.Device
	transport usbboot.Transport
	gone      chan struct{} // closed when it has left
}

func newBus(world *worldClient, dir string, log *slog.Logger) *bus {
	return &bus{world: world, dir: dir, log: log, boards: map[int]*usbboottest.Board{}, devices: map[string]attached{}, on: map[int]int{}, changed: make(chan struct{})}
}

// On is slots.Power.
func (b *bus) On(ctx context.Context, slot int) error {
	on, err := b.world.powered(ctx, slot)
	if err != nil || on {
		return err
	}
	if err := b.world.power(ctx, slot, true); err != nil {
		return err
	}
	board := usbboottest.New(usbboottest.Options{})
	b.mu.Lock()
	b.boards[slot] = board
	b.on[slot]++
	b.mu.Unlock()
	board.Power(true)
	go b.follow(slot, board)
	return nil
}

// Off is slots.Power.
func (b *bus) Off(ctx context.Context, slot int) error {
	b.mu.Lock()
	board := b.boards[slot]
	delete(b.boards, slot)
	b.mu.Unlock()
	if board != nil {
		board.Power(false)
	}
	b.replace(slot, nil)
	return b.world.power(ctx, slot, false)
}

// Powered is slots.Power.
func (b *bus) Powered(ctx context.Context, slot int) (bool, error) {
	return b.world.powered(ctx, slot)
}

// switchedOn is how often a slot was switched on by this process.
func (b *bus) switchedOn(slot int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.on[slot]
}

// follow has the bus show a board's attachments, until it has booted.
func (b *bus) follow(slot int, board *usbboottest.Board) {
	for after := 0; ; {
		n, device, err := board.Attachment(context.Background(), after)
		if errors.Is(err, usbboottest.ErrOver) {
			break
		}
		if err != nil || !b.mine(slot, board) {
			return
		}
		after = n
		b.replace(slot, &device)
	}
	if !b.mine(slot, board) {
		return // it was switched off
	}
	b.replace(slot, nil)
	if err := b.start(slot, board); err != nil {
		b.log.Error("a board does not start", "slot", slot, "error", err)
	}
}

func (b *bus) mine(slot int, board *usbboottest.Board) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.boards[slot] == board
}

// start hands what the board was sent to the guest that is to run it.
func (b *bus) start(slot int, board *usbboottest.Board) error {
	if err := board.Err(); err != nil {
		return fmt.Errorf("the server broke the protocol: %w", err)
	}
	boot, err := board.Booted()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.dir, clusterctrl.SlotName(slot)+"-")
	if err != nil {
		return err
	}
	received := board.Received()
	for name, file := range map[string]string{"kernel": boot.Kernel, "initramfs": boot.Initramfs, "dtb": boot.DTB, "cmdline": boot.Cmdline, "config": boot.Config} {
		content, ok := received[file]
		if !ok {
			return fmt.Errorf("the board was sent no %s (%q)", name, file)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return b.world.boot(context.Background(), slot, dir)
}

// replace puts another device into a slot's port, or none.
func (b *bus) replace(slot int, device *usbboot.Device) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path := wiring.Path(slot)
	if old, ok := b.devices[path]; ok {
		close(old.gone)
		delete(b.devices, path)
	}
	if device != nil {
		b.number++
		d := attached{transport: device.Transport, gone: make(chan struct{}), Device: usbhost.Device{
			Path: path, Bus: 1, Address: b.number, Vendor: 0x0a5c, Product: 0x2763, Interfaces: device.Interfaces,
		}}
		if device.Stage == usbboot.StageFiles {
			d.SerialIndex = 1
		}
		b.devices[path] = d
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// Attend is netboot.Bus.
func (b *bus) Attend(ctx context.Context, seen func([]usbhost.Device), serve func(ctx context.Context, d usbhost.Device)) {
	var serving sync.WaitGroup
	defer serving.Wait()
	known := map[int]bool{}
	for {
		b.mu.Lock()
		changed := b.changed
		var all []attached
		for _, d := range b.devices {
			all = append(all, d)
		}
		b.mu.Unlock()
		list := []usbhost.Device{{Path: wiring.Hub, Bus: 1, Address: 2, Vendor: 0x05e3, Product: 0x0608, Class: 9, Ports: 4}}
		for _, d := range all {
			list = append(list, d.Device)
		}
		slices.SortFunc(list[1:], func(a, b usbhost.Device) int { return a.Address - b.Address })
		seen(list)
		for _, d := range all {
			if known[d.Address] {
				continue
			}
			known[d.Address] = true
			one, cancel := context.WithCancelCause(ctx)
			serving.Go(func() {
				select {
				case <-d.gone:
					cancel(fmt.Errorf("%s: %w", d.Path, usbboot.ErrGone))
				case <-one.Done():
				}
			})
			serving.Go(func() {
				serve(one, d.Device)
				cancel(context.Canceled)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// Open is netboot.Bus.
func (b *bus) Open(d usbhost.Device) (usbboot.Transport, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	there, ok := b.devices[d.Path]
	if !ok || there.Address != d.Address {
		return nil, usbboot.ErrGone
	}
	return there.transport, nil
}

// FindWiring is netboot.Bus.
func (b *bus) FindWiring(usbhost.Search, []usbhost.Device) (usbhost.Wiring, error) {
	return wiring, nil
}

// Rivals is netboot.Bus.
func (b *bus) Rivals() ([]usbhost.Process, error) { return nil, nil }

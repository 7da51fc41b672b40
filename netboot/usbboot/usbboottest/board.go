package usbboottest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"hatchery/netboot/usbboot"
)

// A Model is a board.
type Model string

// The boards of a HAT.
const (
	Zero   Model = "zero"
	ZeroW  Model = "zero-w"
	Zero2W Model = "zero-2-w"
)

// An Order is a generation of the firmware, which asks in another order.
type Order int

// The generations.
const (
	Recent Order = iota // bootcode.bin and start.elf of 2018 and later
	Early               // those of 2017
)

// A Farewell is how a board ends its last attachment.
type Farewell int

// The farewells.
const (
	Leave     Farewell = iota // the kernel takes over and the device is gone
	SayDone                   // command 2
	SayNoName                 // an empty name, which wants an answer
)

// Options of [New].
type Options struct {
	Model      Model    // "": Zero
	Order      Order    // of the questions
	Farewell   Farewell // when all was read
	Interfaces int      // bNumInterfaces; 0: 1, as a BCM2835 has
	// Split makes start.elf attach anew, as it did in 2017 with some hosts.
	Split bool
	// Stuck makes the host miss that the boot ROM detached: the same attachment,
	// still looking like a boot ROM, asks for files.
	Stuck bool
	// Faults happen in this order; each waits for the one before it.
	Faults []Fault
	// Before is called before each transfer and may hold it up; an error is the
	// transfer's. May be nil.
	Before func(ctx context.Context, t Transfer) error
}

// A Board is a fake board. It is safe for use by several goroutines.
type Board struct {
	options Options

	mu        sync.Mutex
	present   int // the attachment that is there; 0: none
	attached  int // attachments so far
	stage     usbboot.Stage
	changed   chan struct{} // closed when any of the above changes
	transfers int
	faults    []Fault

	state    state
	expect   int // bytes still to come on the bulk endpoint
	size     int // of bootcode.bin, as its header says
	buffer   bytes.Buffer
	asked    ask
	halted   string
	boot     Boot
	next     func() (ask, bool)
	stop     func()
	reply    reply
	received map[string][]byte
	requests []Request
	errs     []error
}

// A Request is one question of the board, and the length that the server announced.
type Request struct {
	Command usbboot.Command
	Name    string
	Size    int
}

// String is the request in one line.
func (r Request) String() string { return fmt.Sprintf("%v %s %d", r.Command, r.Name, r.Size) }

// ask is what the firmware wants next; reply is what came.
type ask struct {
	command usbboot.Command
	name    string
	detach  bool // attach anew before the next question
}

type reply struct {
	size int
	data []byte
}

// New makes a board without power. A board that did not boot to its end is to be
// switched off when it is done with: its firmware runs as a coroutine.
func New(o Options) *Board {
	if o.Model == "" {
		o.Model = Zero
	}
	if o.Interfaces == 0 {
		o.Interfaces = 1
	}
	return &Board{options: o, changed: make(chan struct{}), faults: slices.Clone(o.Faults), received: map[string][]byte{}}
}

// Power switches the board on or off. Switched on, it attaches as a boot ROM and
// knows nothing of what it was sent before, except what [Board.Requests] and
// [Board.Err] have kept.
func (b *Board) Power(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.detach()
	b.end()
	b.halted = ""
	if on {
		b.received = map[string][]byte{}
		b.boot = Boot{}
		b.attach(usbboot.StageROM)
	}
}

// halt stops the firmware for a reason, until the power is cycled. The board stays
// on the bus.
func (b *Board) halt(why string) {
	b.halted, b.state = why, halted
}

// attach makes the board show up.
func (b *Board) attach(stage usbboot.Stage) {
	b.attached++
	b.present, b.stage = b.attached, stage
	b.expect = 0
	b.buffer.Reset()
	if stage == usbboot.StageROM {
		b.state = romHeaderLength
	} else {
		b.state = idle
		b.start()
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// detach makes the board vanish from the bus.
func (b *Board) detach() {
	b.present = 0
	close(b.changed)
	b.changed = make(chan struct{})
}

// start lets the firmware run, unless it runs already.
func (b *Board) start() {
	if b.next == nil {
		b.reply = reply{}
		b.next, b.stop = iter.Pull(b.firmware())
	}
}

// end stops the firmware.
func (b *Board) end() {
	if b.next != nil {
		b.stop()
		b.next, b.stop = nil, nil
	}
}

// Attachment waits until the board is attached, other than by the attachments up to
// after, and gives it: its number for the next call, and what a server needs. It
// fails when the board can never attach again without its power being cycled: it
// has booted, or halted.
func (b *Board) Attachment(ctx context.Context, after int) (int, usbboot.Device, error) {
	for {
		b.mu.Lock()
		present, stage, changed := b.present, b.stage, b.changed
		over := b.boot.Done || b.halted != ""
		b.mu.Unlock()
		switch {
		case present > after:
			return present, usbboot.Device{
				Transport:  &transport{board: b, attachment: present},
				Stage:      stage,
				Interfaces: b.options.Interfaces,
			}, nil
		case over:
			return 0, usbboot.Device{}, ErrOver
		}
		select {
		case <-ctx.Done():
			return 0, usbboot.Device{}, ctx.Err()
		case <-changed:
		}
	}
}

// ErrOver says that the board does not attach any more.
var ErrOver = errors.New("the board has booted or halted")

// Boot switches the board on and has each of its attachments served, until it has
// booted or an attachment ends with an error. It gives the results of all of them.
func (b *Board) Boot(ctx context.Context, serve func(ctx context.Context, d usbboot.Device) (usbboot.Result, error)) ([]usbboot.Result, error) {
	b.Power(true)
	var results []usbboot.Result
	for after := 0; ; {
		if b.options.Stuck && after > 0 {
			// The host sees no other attachment: it serves this one again.
			after--
		}
		n, device, err := b.Attachment(ctx, after)
		if errors.Is(err, ErrOver) {
			return results, b.Err()
		}
		if err != nil {
			return results, err
		}
		after = n
		result, err := serve(ctx, device)
		results = append(results, result)
		if err != nil {
			return results, err
		}
		if err := b.Err(); err != nil {
			return results, err
		}
	}
}

// Received gives what the board was sent, by file name; a file that was sent twice
// is there once. bootcode.bin is among them.
func (b *Board) Received() map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.received)
}

// Requests lists what the board asked for, in order, all power cycles included.
func (b *Board) Requests() []Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

// Booted says what the firmware would have started. It fails when the firmware has
// halted or is not done.
func (b *Board) Booted() (Boot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.halted != "":
		return b.boot, fmt.Errorf("the firmware has halted: %s", b.halted)
	case !b.boot.Done:
		return b.boot, errors.New("the firmware has not started a kernel")
	}
	return b.boot, nil
}

// Transfers counts the transfers so far, all attachments and power cycles included.
func (b *Board) Transfers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.transfers
}

// Err gives what the server did against the protocol; nil if nothing.
func (b *Board) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.errs...)
}

// wrong remembers a mistake of the server and refuses the transfer.
func (b *Board) wrong(format string, args ...any) error {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
	return usbboot.ErrStall
}

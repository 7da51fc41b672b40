package hat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/filelock"
	"hatchery/internal/nodefile"
	"hatchery/internal/progress"
)

// Slots is how many slots a HAT has.
const Slots = 4

// ErrNoSlot is that of a slot which the HAT does not have.
var ErrNoSlot = errors.New("its power cannot be switched from here: the ClusterHAT switches p1 to p4, and a board on another USB hub has power as long as that has; pull it out and put it in again")

// Options of a HAT. Zero fields are what a controller has.
type Options struct {
	Root    string // the folder that proc, sys and dev are in: /
	Version string // auto, or as cluster.yaml has it: auto
	// First is the slot of the HAT's first connector: 1. It is another where there are
	// several controllers, each with a HAT, and slots have one number in all.
	First int
	Lock  string // the file that keeps processes apart: /run/hatchery/hat.lock
	// Delay lies at least between switching two slots on, since all of them at
	// once draw more than a supply may give: 1 s. Less than 0 is none.
	Delay time.Duration
	// HoldLines is of a v1 alone: it is used even where the kernel returns GPIO
	// lines to inputs when the process that drives them ends, which cuts the
	// power of all slots.
	HoldLines bool
	DryRun    bool // nothing is written: what would be is logged, and taken for done
	Log       *slog.Logger

	// Bus and Lines are in place of /dev/i2c-1 and /dev/gpiochipN.
	Bus   Bus
	Lines Lines
}

// HAT is a ClusterHAT. Its methods may be called from several goroutines, and
// other processes may use the same HAT.
type HAT struct {
	first    int // the slot of the first connector
	identity Identity
	board    board
	lock     string
	delay    time.Duration
	log      *slog.Logger

	fresh  atomic.Bool   // it was set up by this HAT
	turn   chan struct{} // who switches slots on
	lastOn time.Time     // of the one who has the turn
}

// board is how a version's pins are reached.
type board interface {
	// start says whether nobody had used the board since it got power.
	start(ctx context.Context) (fresh bool, err error)
	get(ctx context.Context, p pin) (bool, error)
	set(ctx context.Context, p pin, high bool, what string) (changed bool, err error)
	Close() error
}

// Open finds the board's HAT, and does nothing to it yet. The error is
// [ErrNoHAT] if there is none.
func Open(o Options) (*HAT, error) {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Lock == "" {
		o.Lock = filepath.Join(nodefile.RunDir, "hat.lock")
	}
	if o.Delay == 0 {
		o.Delay = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	h := &HAT{first: max(1, o.First), lock: o.Lock, delay: o.Delay, log: o.Log, turn: make(chan struct{}, 1)}
	var err error
	if o.Version == "" || o.Version == "auto" {
		h.identity, err = Detect(o.Root)
	} else {
		h.identity.Version, err = ParseVersion(o.Version)
	}
	if err != nil {
		return nil, err
	}
	if h.identity.Version.Major == 1 {
		lines := o.Lines
		if lines == nil {
			if lines, err = openLines(o.Root, o.HoldLines); err != nil {
				return nil, fmt.Errorf("ClusterHAT %s: %w", h.identity.Version, err)
			}
		}
		if o.DryRun {
			lines = &dryLines{Lines: lines, log: o.Log}
		}
		h.board = &direct{lines}
		return h, nil
	}
	bus := o.Bus
	if bus == nil {
		if bus, err = openBus(filepath.Join(o.Root, "dev/i2c-1")); err != nil {
			return nil, fmt.Errorf("ClusterHAT %s: %w", h.identity.Version, err)
		}
	}
	if o.DryRun {
		bus = &dryBus{Bus: bus, log: o.Log}
	}
	h.board = &expander{bus, h.identity.Version, o.Log}
	return h, nil
}

// Close lets go of the HAT. The slots keep their power, except of a v1 that
// was opened with HoldLines.
func (h *HAT) Close() error { return h.board.Close() }

// Version is the HAT's.
func (h *HAT) Version() Version { return h.identity.Version }

// UUID is the one in the HAT's EEPROM; empty if that was not read.
func (h *HAT) UUID() string { return h.identity.UUID }

// Start sets a HAT up that nobody has used since it got power, as clusterctrl
// does: hub on, alert off, slots as the HAT's power-on-state link says. Whatever
// switches something does so, too.
func (h *HAT) Start(ctx context.Context) error {
	return h.locked(ctx, func() error { return nil })
}

// Fresh says whether this HAT was the first, since the board got power, to set it
// up: then the slots have got theirs just now too, if they have any. It is not
// known of a v1.
func (h *HAT) Fresh() bool { return h.fresh.Load() }

// Switches says whether a slot's power is the HAT's. Those of boards on other USB
// hubs are not.
func (h *HAT) Switches(slot int) bool { return slot >= h.first && slot < h.first+Slots }

// On switches a slot on, if it is not. It waits for the others' delay.
func (h *HAT) On(ctx context.Context, slot int) error {
	p, err := h.pinOf(slot)
	if err != nil {
		return err
	}
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.turn }()
	if on, err := h.board.get(ctx, p); err != nil {
		return h.wrap(err)
	} else if !on && !h.lastOn.IsZero() {
		if err := pause(ctx, h.delay-time.Since(h.lastOn)); err != nil {
			return err
		}
	}
	changed, err := h.set(ctx, p, true, clusterctrl.SlotName(slot)+"'s power")
	if changed {
		h.lastOn = time.Now()
	}
	return err
}

// Off cuts a slot's power, without asking what runs there.
func (h *HAT) Off(ctx context.Context, slot int) error {
	p, err := h.pinOf(slot)
	if err != nil {
		return err
	}
	_, err = h.set(ctx, p, false, clusterctrl.SlotName(slot)+"'s power")
	return err
}

// Cycle cuts a slot's power for some time. Once it is off it is switched on
// again, even if ctx ends.
func (h *HAT) Cycle(ctx context.Context, slot int, off time.Duration) error {
	if err := h.Off(ctx, slot); err != nil {
		return err
	}
	_ = pause(ctx, off)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return h.On(ctx, slot)
}

// Powered says whether a slot has power.
func (h *HAT) Powered(ctx context.Context, slot int) (bool, error) {
	p, err := h.pinOf(slot)
	if err != nil {
		return false, err
	}
	on, err := h.board.get(ctx, p)
	return on, h.wrap(err)
}

// OnAll switches slots on, one after the other with the delay between them;
// none named are all. The first error ends it.
func (h *HAT) OnAll(ctx context.Context, slots ...int) error {
	for _, slot := range h.all(slots) {
		if err := h.On(ctx, slot); err != nil {
			return err
		}
	}
	return nil
}

// OffAll cuts the power of slots; none named are all. Errors do not keep it
// from the others.
func (h *HAT) OffAll(ctx context.Context, slots ...int) error {
	var errs []error
	for _, slot := range h.all(slots) {
		errs = append(errs, h.Off(ctx, slot))
	}
	return errors.Join(errs...)
}

func (h *HAT) all(slots []int) []int {
	if len(slots) == 0 {
		return []int{h.first, h.first + 1, h.first + 2, h.first + 3}
	}
	return slots
}

// Hub switches the HAT's USB hub, which is all slots' links. A v1's cannot be
// switched.
func (h *HAT) Hub(ctx context.Context, on bool) error {
	if h.identity.Version.Major == 1 {
		return fmt.Errorf("USB hub of ClusterHAT %s: %w", h.identity.Version, ErrNotSwitchable)
	}
	_, err := h.set(ctx, pinHub, on != h.identity.Version.hubInverted(), "the USB hub's bit")
	return err
}

// Alert switches the HAT's alert LED.
func (h *HAT) Alert(ctx context.Context, on bool) error {
	_, err := h.set(ctx, pinAlert, on, "the alert LED")
	return err
}

// Status is what the HAT says of itself.
type Status struct {
	Version string          `json:"version"`
	UUID    string          `json:"uuid,omitempty"`
	Slots   map[string]bool `json:"slots"`         // p1: true, with power
	Hub     *bool           `json:"hub,omitempty"` // nil where it cannot be switched
	Alert   bool            `json:"alert"`
}

// Status reads it all, and changes nothing.
func (h *HAT) Status(ctx context.Context) (Status, error) {
	s := Status{Version: h.identity.Version.String(), UUID: h.identity.UUID, Slots: make(map[string]bool, Slots)}
	for slot := h.first; slot < h.first+Slots; slot++ {
		on, err := h.Powered(ctx, slot)
		if err != nil {
			return Status{}, err
		}
		s.Slots[clusterctrl.SlotName(slot)] = on
	}
	var err error
	if s.Alert, err = h.board.get(ctx, pinAlert); err != nil {
		return Status{}, h.wrap(err)
	}
	if h.identity.Version.Major > 1 {
		level, err := h.board.get(ctx, pinHub)
		if err != nil {
			return Status{}, h.wrap(err)
		}
		on := level != h.identity.Version.hubInverted()
		s.Hub = &on
	}
	return s, nil
}

func (h *HAT) pinOf(slot int) (pin, error) {
	if !h.Switches(slot) {
		return 0, fmt.Errorf("%s: %w", clusterctrl.SlotName(slot), ErrNoSlot)
	}
	return pinSlot1 + pin(slot-h.first), nil
}

func (h *HAT) set(ctx context.Context, p pin, high bool, what string) (changed bool, err error) {
	err = h.locked(ctx, func() error {
		changed, err = h.board.set(ctx, p, high, what)
		return err
	})
	if changed && err == nil {
		h.log.Info("HAT", "switched", what, "high", high)
	}
	return changed, err
}

// locked does something while no other process does.
func (h *HAT) locked(ctx context.Context, do func() error) error {
	if err := os.MkdirAll(filepath.Dir(h.lock), 0o755); err != nil {
		return h.wrap(err)
	}
	unlock, err := filelock.Lock(ctx, h.lock, "waiting for who else switches the HAT", progress.Discard)
	if err != nil {
		return h.wrap(err)
	}
	defer unlock()
	fresh, err := h.board.start(ctx)
	if err != nil {
		return h.wrap(err)
	}
	if fresh {
		h.fresh.Store(true)
	}
	return h.wrap(do())
}

func (h *HAT) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ClusterHAT %s: %w", h.identity.Version, err)
}

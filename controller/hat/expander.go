package hat

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// attempts is how often a transfer, and a bit that does not take, is tried;
// between is what lies between.
const (
	attempts = 4
	between  = 5 * time.Millisecond
)

// expander is a v2's or v3's.
type expander struct {
	bus     Bus
	version Version
	log     *slog.Logger
}

// StuckError is that of a bit that was written and did not take.
type StuckError struct {
	What   string // p2's power
	Wanted bool
	Latch  bool // what the expander was told last
	Pin    bool // what is on the pin
}

func (e *StuckError) Error() string {
	if e.Latch != e.Wanted {
		return fmt.Sprintf("%s was switched %s, but the HAT's expander says %s again: another program switches it, too (clusterctrl?), or the expander is broken", e.What, onOff(e.Wanted), onOff(e.Latch))
	}
	return fmt.Sprintf("%s was switched %s, but stays %s: the HAT's expander has it, its pin does not follow. Take the HAT's power away for some seconds; if that does not help, a short circuit or a broken expander holds it", e.What, onOff(e.Wanted), onOff(e.Pin))
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (x *expander) read(ctx context.Context, register byte) (value byte, err error) {
	err = x.transfer(ctx, func() error {
		value, err = x.bus.ReadByteData(register)
		return err
	})
	return value, err
}

func (x *expander) write(ctx context.Context, register, value byte) error {
	return x.transfer(ctx, func() error { return x.bus.WriteByteData(register, value) })
}

func (x *expander) transfer(ctx context.Context, do func() error) error {
	var err error
	for i := range attempts {
		if i > 0 {
			if err := pause(ctx, between); err != nil {
				return err
			}
		}
		if err = do(); err == nil || !transient(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("the HAT's expander (I²C address %#x): %w", Address, err)
	}
	return nil
}

// start does what is to be done to a HAT that nobody has touched since it got
// power: all its pins are inputs then.
func (x *expander) start(ctx context.Context) (fresh bool, err error) {
	dir, err := x.read(ctx, RegDir)
	if err != nil || dir != 0xff {
		return false, err
	}
	in, err := x.read(ctx, RegIn)
	if err != nil {
		return false, err
	}
	out, err := x.read(ctx, RegOut)
	if err != nil {
		return false, err
	}
	protect := true
	if pulls, err := x.read(ctx, RegPullUp); err == nil { // an XRA1200P
		// Whether a solder link protects the EEPROM shows without the pull-up.
		if err := x.write(ctx, RegPullUp, pulls&^pinWP.mask()); err != nil {
			return false, err
		}
		level, err := x.read(ctx, RegIn)
		if err != nil {
			return false, err
		}
		if level&pinWP.mask() != 0 {
			protect = false // the link does
			if err := x.write(ctx, RegPullUp, pulls|pinWP.mask()); err != nil {
				return false, err
			}
		}
	} else if ctx.Err() != nil {
		return false, ctx.Err()
	}
	// The slots have power already if the power-on-state link is cut: all four
	// pins are high.
	slots := pinSlot1.mask() * 0xf
	out &^= slots
	if in&slots == slots {
		out |= slots
	}
	out = bit(out, pinAlert, false)
	out = bit(out, pinHub, !x.version.hubInverted())
	if x.version.hasLED() {
		out = bit(out, pinLED, true)
	}
	if protect {
		out = bit(out, pinWP, true)
	}
	if err := x.write(ctx, RegOut, out); err != nil {
		return false, err
	}
	if err := x.write(ctx, RegDir, 0); err != nil {
		return false, err
	}
	// Written once more, for expanders that take levels of outputs alone.
	if err := x.write(ctx, RegOut, out); err != nil {
		return false, err
	}
	for _, register := range []struct {
		number, want byte
		what         string
	}{{RegDir, 0, "direction"}, {RegOut, out, "output"}} {
		is, err := x.read(ctx, register.number)
		if err != nil {
			return false, err
		}
		if is != register.want {
			return false, fmt.Errorf("the HAT's expander (I²C address %#x) does not keep what is written to it (%s %#02x reads back as %#02x): something else answers at this address, or it is broken", Address, register.what, register.want, is)
		}
	}
	x.log.Info("the HAT was not used since it got power: set up", "version", x.version.String(), "slots on", in&slots == slots)
	return true, nil
}

func bit(value byte, p pin, high bool) byte {
	if high {
		return value | p.mask()
	}
	return value &^ p.mask()
}

// get is a pin's level.
func (x *expander) get(ctx context.Context, p pin) (bool, error) {
	in, err := x.read(ctx, RegIn)
	return in&p.mask() != 0, err
}

// set drives a pin, and leaves all others as they are.
func (x *expander) set(ctx context.Context, p pin, high bool, what string) (changed bool, err error) {
	stuck := &StuckError{What: what, Wanted: high}
	for i := range attempts {
		if i > 0 {
			if err := pause(ctx, between); err != nil {
				return changed, err
			}
		}
		out, err := x.read(ctx, RegOut)
		if err != nil {
			return changed, err
		}
		if want := bit(out, p, high); want != out {
			changed = true
			if err := x.write(ctx, RegOut, want); err != nil {
				return changed, err
			}
		}
		dir, err := x.read(ctx, RegDir)
		if err != nil {
			return changed, err
		}
		if dir&p.mask() != 0 {
			changed = true
			if err := x.write(ctx, RegDir, bit(dir, p, false)); err != nil {
				return changed, err
			}
		}
		if out, err = x.read(ctx, RegOut); err != nil {
			return changed, err
		}
		in, err := x.read(ctx, RegIn)
		if err != nil {
			return changed, err
		}
		stuck.Latch, stuck.Pin = out&p.mask() != 0, in&p.mask() != 0
		if stuck.Latch == high && stuck.Pin == high {
			return changed, nil
		}
	}
	return changed, stuck
}

func (x *expander) Close() error { return x.bus.Close() }

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

package hat

import (
	"context"
	"errors"
	"fmt"
)

// ErrNotSwitchable is that of something this version of the HAT cannot switch.
var ErrNotSwitchable = errors.New("this version of the ClusterHAT cannot switch it")

// ErrNotKept is that of a v1 whose slots would lose their power with the
// process that gave it to them.
var ErrNotKept = errors.New("the kernel switches GPIO outputs off when the process that set them ends, and with them all slots")

// direct is a v1, on the board's own GPIO lines.
type direct struct{ lines Lines }

func (d *direct) start(context.Context) (bool, error) { return false, nil }

func (d *direct) get(_ context.Context, p pin) (bool, error) {
	line, ok := lineOf[p]
	if !ok {
		return false, ErrNotSwitchable
	}
	high, err := d.lines.Get(line)
	if err != nil {
		return false, fmt.Errorf("GPIO %d: %w", line, err)
	}
	return high, nil
}

func (d *direct) set(ctx context.Context, p pin, high bool, what string) (changed bool, err error) {
	was, err := d.get(ctx, p)
	if err != nil || was == high {
		return false, err
	}
	line := lineOf[p]
	if err := d.lines.Set(line, high); err != nil {
		return false, fmt.Errorf("GPIO %d: %w", line, err)
	}
	is, err := d.get(ctx, p)
	if err != nil {
		return true, err
	}
	if is != high {
		return true, &StuckError{What: what, Wanted: high, Latch: high, Pin: is}
	}
	return true, nil
}

func (d *direct) Close() error { return d.lines.Close() }

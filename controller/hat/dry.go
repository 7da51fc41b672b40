package hat

import (
	"log/slog"
	"sync"
)

// dryBus reads from the expander and remembers what would be written to it.
type dryBus struct {
	Bus
	log *slog.Logger

	mu      sync.Mutex
	written map[byte]byte
}

func (d *dryBus) WriteByteData(register, value byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.written == nil {
		d.written = make(map[byte]byte)
	}
	d.written[register] = value
	d.log.Info("would write to the HAT's expander", "register", register, "value", value)
	return nil
}

func (d *dryBus) ReadByteData(register byte) (byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if value, ok := d.written[register]; ok {
		return value, nil
	}
	value, err := d.Bus.ReadByteData(register)
	if err != nil || register != RegIn {
		return value, err
	}
	// The pins would be what the outputs are.
	out, dir := d.written, byte(0xff)
	if written, ok := out[RegDir]; ok {
		dir = written
	} else if dir, err = d.Bus.ReadByteData(RegDir); err != nil {
		return 0, err
	}
	if written, ok := out[RegOut]; ok {
		value = value&dir | written&^dir
	}
	return value, nil
}

// dryLines are the same of a v1.
type dryLines struct {
	Lines
	log *slog.Logger

	mu      sync.Mutex
	written map[int]bool
}

func (d *dryLines) Get(line int) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if high, ok := d.written[line]; ok {
		return high, nil
	}
	return d.Lines.Get(line)
}

func (d *dryLines) Set(line int, high bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.written == nil {
		d.written = make(map[int]bool)
	}
	d.written[line] = high
	d.log.Info("would set a GPIO line", "line", line, "high", high)
	return nil
}

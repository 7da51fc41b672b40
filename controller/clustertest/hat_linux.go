package clustertest

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"hatchery/controller/hat"
)

// An expander is the chip of a v2's HAT, with its registers in a file: they outlive who
// switches, as a chip's do.
type expander string

// The registers' places in the file.
const (
	placeOut = iota
	placeDir
	placePullUp
	registers
)

// newExpander makes one that has just got power: all pins are inputs, and pulled up.
func newExpander(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte{0xff, 0xff, 0xff}, 0o600)
}

func (x expander) read() ([registers]byte, error) {
	content, err := os.ReadFile(string(x))
	if err == nil && len(content) != registers {
		err = syscall.EIO
	}
	if err != nil {
		return [registers]byte{}, err
	}
	return [registers]byte(content), nil
}

func (x expander) ReadByteData(register byte) (byte, error) {
	r, err := x.read()
	switch register {
	case hat.RegIn:
		return r[placeOut]&^r[placeDir] | r[placePullUp]&r[placeDir], err
	case hat.RegOut:
		return r[placeOut], err
	case hat.RegDir:
		return r[placeDir], err
	case hat.RegPullUp:
		return r[placePullUp], err
	}
	return 0, syscall.ENXIO
}

func (x expander) WriteByteData(register, value byte) error {
	at := slices.Index([]byte{hat.RegOut, hat.RegDir, hat.RegPullUp}, register)
	if at < 0 {
		return syscall.ENXIO
	}
	f, err := os.OpenFile(string(x), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{value}, int64(at))
	return err
}

func (expander) Close() error { return nil }

// expander is where the HAT's chip is.
func (c *Cluster) expander() string { return filepath.Join(c.Controller.Dir, "hat", "expander") }

// Powered says whether the HAT gives a slot power.
func (c *Cluster) Powered(slot int) bool {
	c.t.Helper()
	pins, err := expander(c.expander()).ReadByteData(hat.RegIn)
	if err != nil {
		c.t.Error(err)
	}
	return pins&(1<<(slot-1)) != 0
}

package hat_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"hatchery/controller/hat"
)

// expander is the chip of a v2 or v3, with faults.
type expander struct {
	mu            sync.Mutex
	out, dir, pur byte
	link          byte // pins that a solder link pulls down where they are inputs
	wpLink        bool // the one that pulls the write protection up
	pca9554       bool // has no pull-up register

	nacks     int                     // so many transfers are not answered
	stuckHigh byte                    // pins
	stuckLow  byte                    // pins
	deaf      bool                    // takes no writes
	between   map[int]func(*expander) // done before the so-manieth transfer: somebody else's writes
	transfers int
	trace     strings.Builder // of writes
	closed    bool
}

// fresh is one that has just got power.
func fresh() *expander { return &expander{out: 0xff, dir: 0xff, pur: 0xff} }

// used is one that clusterctrl has set up, with slots on.
func used(out byte) *expander { return &expander{out: out, pur: 0x7f} }

func (x *expander) in() byte {
	inputs := x.pur &^ x.link
	if x.pca9554 {
		inputs = 0xff &^ x.link
	}
	if x.wpLink {
		inputs |= 0x80
	}
	return (x.out&^x.dir|inputs&x.dir)&^x.stuckLow | x.stuckHigh
}

func (x *expander) begin() error {
	if other := x.between[x.transfers]; other != nil {
		other(x)
	}
	x.transfers++
	if x.nacks > 0 {
		x.nacks--
		return fmt.Errorf("transfer: %w", syscall.ENXIO)
	}
	return nil
}

func (x *expander) ReadByteData(register byte) (byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.begin(); err != nil {
		return 0, err
	}
	switch register {
	case hat.RegIn:
		return x.in(), nil
	case hat.RegOut:
		return x.out, nil
	case hat.RegDir:
		return x.dir, nil
	case hat.RegPullUp:
		if !x.pca9554 {
			return x.pur, nil
		}
	}
	return 0, syscall.ENXIO
}

func (x *expander) WriteByteData(register, value byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.begin(); err != nil {
		return err
	}
	name := map[byte]string{hat.RegOut: "OUT", hat.RegDir: "DIR", hat.RegPullUp: "PUR"}[register]
	if name == "" || register == hat.RegPullUp && x.pca9554 {
		return syscall.ENXIO
	}
	fmt.Fprintf(&x.trace, " %s=%02x", name, value)
	if x.deaf {
		return nil
	}
	*map[byte]*byte{hat.RegOut: &x.out, hat.RegDir: &x.dir, hat.RegPullUp: &x.pur}[register] = value
	return nil
}

func (x *expander) Close() error { x.closed = true; return nil }

// gpio are a board's lines.
type gpio struct {
	high  map[int]bool
	short map[int]bool // stay low
	busy  error
}

func (g *gpio) Get(line int) (bool, error) { return g.high[line] && !g.short[line], g.busy }
func (g *gpio) Set(line int, high bool) error {
	g.high[line] = high
	return g.busy
}
func (g *gpio) Close() error { return nil }

// deviceTree is a root folder with what the firmware found of a HAT.
func deviceTree(t testing.TB, properties map[string]string) string {
	root := t.TempDir()
	dir := filepath.Join(root, "proc/device-tree/hat")
	if properties != nil {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range properties {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func board(t testing.TB, version string) string {
	return deviceTree(t, map[string]string{"product": "ZC4:ClusterHAT\x00", "product_ver": version + "\x00", "uuid": "0f-1e\x00"})
}

package hat

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags and ioctls of the kernel's linux/gpio.h (version 2 of its ABI, since
// Linux 5.10) that golang.org/x/sys/unix does not have.
const (
	lineOutput    = 1 << 3
	lineSetConfig = 0xc110b40d
)

// chips are the GPIO controllers that a HAT's header is on, by label, and the
// kernel modules that drive them.
var chips = map[string]string{
	"pinctrl-bcm2835": "pinctrl_bcm2835", // Pi 1 to 3, Zeros
	"pinctrl-bcm2711": "pinctrl_bcm2835", // Pi 4
	"pinctrl-rp1":     "pinctrl_rp1",     // Pi 5
}

// gpioLines are lines of a GPIO character device.
type gpioLines struct {
	chip *os.File
	hold bool

	mu   sync.Mutex
	held map[int]*os.File
}

// openLines finds the board's own GPIO controller.
func openLines(root string, hold bool) (Lines, error) {
	paths, err := filepath.Glob(filepath.Join(root, "dev/gpiochip*"))
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	var denied error
	var others []string
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				denied = err
			}
			continue
		}
		var info unix.GPIOChipInfo
		err = ioctl(f, unix.GPIO_GET_CHIPINFO_IOCTL, uintptr(unsafe.Pointer(&info)))
		label, _, _ := bytes.Cut(info.Label[:], []byte{0})
		module, ours := chips[string(label)]
		if err != nil || !ours {
			others = append(others, fmt.Sprintf("%s (%q)", path, label))
			f.Close()
			continue
		}
		if !hold && !persists(root, module) {
			f.Close()
			return nil, fmt.Errorf("%w: add %s.persist_gpio_outputs=1 to cmdline.txt (Linux 6.10, or Raspberry Pi's since May 2024), and take strict_gpiod out of config.txt", ErrNotKept, module)
		}
		return &gpioLines{chip: f, hold: hold, held: make(map[int]*os.File)}, nil
	}
	switch {
	case denied != nil:
		return nil, fmt.Errorf("%w. Only root and the group gpio may use it: run it with sudo", denied)
	case len(others) > 0:
		return nil, fmt.Errorf("none of the GPIO controllers is a Raspberry Pi's: %s", strings.Join(others, ", "))
	}
	return nil, fmt.Errorf("there is no %s: the kernel has no GPIO controller", filepath.Join(root, "dev/gpiochip*"))
}

// persists says whether outputs stay what they are when they are let go of.
// The parameter is the kernel's drivers/pinctrl/bcm/pinctrl-bcm2835.c.
func persists(root, module string) bool {
	value, err := os.ReadFile(filepath.Join(root, "sys/module", module, "parameters/persist_gpio_outputs"))
	return err == nil && strings.TrimSpace(string(value)) == "Y"
}

// request asks for a line as it is, without changing its direction.
func (g *gpioLines) request(line int) (f *os.File, done func(), err error) {
	if f := g.held[line]; f != nil {
		return f, func() {}, nil
	}
	request := unix.GPIOV2LineRequest{Num_lines: 1}
	request.Offsets[0] = uint32(line)
	copy(request.Consumer[:], "hatchery")
	if err := ioctl(g.chip, unix.GPIO_V2_GET_LINE_IOCTL, uintptr(unsafe.Pointer(&request))); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return nil, nil, fmt.Errorf("%s has it, and must let go of it first", g.consumer(line))
		}
		return nil, nil, fmt.Errorf("%s: %w", g.chip.Name(), err)
	}
	unix.CloseOnExec(int(request.Fd))
	f = os.NewFile(uintptr(request.Fd), fmt.Sprintf("%s line %d", g.chip.Name(), line))
	if g.hold {
		g.held[line] = f
		return f, func() {}, nil
	}
	return f, func() { f.Close() }, nil
}

// consumer is who uses a line.
func (g *gpioLines) consumer(line int) string {
	info := unix.GPIOV2LineInfo{Offset: uint32(line)}
	if err := ioctl(g.chip, unix.GPIO_V2_GET_LINEINFO_IOCTL, uintptr(unsafe.Pointer(&info))); err != nil {
		return "another program"
	}
	name, _, _ := bytes.Cut(info.Consumer[:], []byte{0})
	return fmt.Sprintf("another program (%q)", name)
}

func (g *gpioLines) Get(line int) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, done, err := g.request(line)
	if err != nil {
		return false, err
	}
	defer done()
	values := unix.GPIOV2LineValues{Mask: 1}
	if err := ioctl(f, unix.GPIO_V2_LINE_GET_VALUES_IOCTL, uintptr(unsafe.Pointer(&values))); err != nil {
		return false, fmt.Errorf("cannot read %s: %w", f.Name(), err)
	}
	return values.Bits&1 != 0, nil
}

func (g *gpioLines) Set(line int, high bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, done, err := g.request(line)
	if err != nil {
		return err
	}
	defer done()
	config := &unix.GPIOV2LineConfig{Flags: lineOutput, Num_attrs: 1}
	config.Attrs[0].Mask = 1
	config.Attrs[0].Attr.Id = unix.GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES
	if high {
		config.Attrs[0].Attr.Flags = 1 // the same union's values
	}
	err = ioctl(f, lineSetConfig, uintptr(unsafe.Pointer(config)))
	runtime.KeepAlive(config)
	if err != nil {
		return fmt.Errorf("cannot drive %s: %w", f.Name(), err)
	}
	return nil
}

func (g *gpioLines) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	errs := []error{g.chip.Close()}
	for _, f := range g.held {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

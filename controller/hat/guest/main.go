//go:build linux

// Guest is the init of emulated boards on which controller/hat's test meets a
// real kernel: one with an expander on its I²C bus, and a Raspberry Pi with its
// GPIO lines. What the pins are it asks in other ways than the package does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hatchery/controller/hat"
)

func main() {
	for _, m := range [][3]string{{"devtmpfs", "/dev", "devtmpfs"}, {"sysfs", "/sys", "sysfs"}, {"proc", "/proc", "proc"}} {
		os.MkdirAll(m[1], 0o755)
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			fmt.Println("GUEST mount", m[1], err)
		}
	}
	list, _ := os.ReadFile("/etc/hatchery/modules")
	for path := range strings.Lines(string(list)) {
		path = strings.TrimSpace(path)
		f, err := os.Open(path)
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
		}
		if err != nil {
			fmt.Println("GUEST module", path, err)
		}
	}
	part, do := "i2c", i2c
	if model, _ := os.ReadFile("/proc/device-tree/model"); strings.HasPrefix(string(model), "Raspberry Pi") {
		part, do = "gpio", gpio
	}
	if err := do(); err != nil {
		fmt.Printf("GUEST failed %s: %v\n", part, err)
	} else {
		fmt.Printf("GUEST done %s\n", part)
	}
	select {} // the test takes the board away
}

// root is a root folder for a HAT of a version, with one device in it.
func root(version, name, device string) (string, error) {
	dir, err := os.MkdirTemp("/", "root")
	if err != nil {
		return "", err
	}
	for file, text := range map[string]string{"product": "ZC4:ClusterHAT\x00", "product_ver": version + "\x00"} {
		path := filepath.Join(dir, "proc/device-tree/hat", file)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	os.MkdirAll(filepath.Join(dir, "dev"), 0o755)
	return dir, os.Symlink(device, filepath.Join(dir, "dev", name))
}

// i2c switches slots of a v2.6 whose expander is QEMU's MAX7310, which has the
// registers of a PCA9554.
func i2c() error {
	for range 250 { // the adapter's driver may still be starting
		if _, err := os.Stat("/dev/i2c-0"); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	dir, err := root("0x0026", "i2c-1", "/dev/i2c-0")
	if err != nil {
		return err
	}
	chip, err := os.OpenFile("/dev/i2c-0", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer chip.Close()
	if err := unix.IoctlSetInt(int(chip.Fd()), 0x0703, hat.Address); err != nil {
		return err
	}
	// A MAX7310 inverts half of its pins at first (register 2); a PCA9554 none.
	if _, err := chip.Write([]byte{2, 0}); err != nil {
		return err
	}
	ctx := context.Background()
	h, err := hat.Open(hat.Options{Root: dir, Lock: "/lock", Delay: -1})
	if err != nil {
		return err
	}
	defer h.Close()
	for i, step := range []struct {
		do   func() error
		want byte // OUT
	}{
		// LEDs and write protection on, the hub too (0), as clusterctrl leaves a 2.6.
		{func() error { return h.Start(ctx) }, 0x90},
		{func() error { return h.On(ctx, 2) }, 0x92},
		{func() error { return h.On(ctx, 4) }, 0x9a},
		{func() error { return h.Hub(ctx, false) }, 0xba},
		{func() error { return h.Off(ctx, 2) }, 0xb8},
		{func() error { return h.Alert(ctx, true) }, 0xf8},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		in, err := peek(chip, hat.RegIn)
		if err != nil || in != step.want {
			return fmt.Errorf("step %d: the pins are %#02x, want %#02x (%v)", i, in, step.want, err)
		}
	}
	s, err := h.Status(ctx)
	if text := fmt.Sprint(s.Slots, s.Alert, *s.Hub); err != nil || text != "map[p1:false p2:false p3:false p4:true] true false" {
		return fmt.Errorf("status: %s, %v", text, err)
	}
	return nil
}

// peek reads a register by plain write and read, not by SMBus calls.
func peek(f *os.File, register byte) (byte, error) {
	if _, err := f.Write([]byte{register}); err != nil {
		return 0, err
	}
	var data [1]byte
	_, err := f.Read(data[:])
	return data[0], err
}

// gpio switches slots of a v1 on the lines of a Pi's own controller.
func gpio() error {
	registers, err := mapRegisters()
	if err != nil {
		return err
	}
	dir, err := root("0x0013", "gpiochip0", "/dev/gpiochip0")
	if err != nil {
		return err
	}
	ctx := context.Background()
	o := hat.Options{Root: dir, Lock: "/lock", Delay: -1}
	if _, err := hat.Open(o); !errors.Is(err, hat.ErrNotKept) {
		return fmt.Errorf("outputs that are not kept: %v", err)
	}
	o.HoldLines = true
	h, err := hat.Open(o)
	if err != nil {
		return err
	}
	for i, step := range []struct {
		do   func() error
		want string // levels of lines 5, 6, 13, 19, 26
	}{
		{func() error { return h.On(ctx, 1) }, "0 1 0 0 0"},
		{func() error { return h.On(ctx, 4) }, "0 1 0 0 1"},
		{func() error { return h.Alert(ctx, true) }, "1 1 0 0 1"},
		{func() error { return h.Off(ctx, 1) }, "1 0 0 0 1"},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		var got []string
		for _, line := range []int{5, 6, 13, 19, 26} {
			got = append(got, registers.level(line))
		}
		if got := strings.Join(got, " "); got != step.want {
			return fmt.Errorf("step %d: lines %s, want %s", i, got, step.want)
		}
	}
	s, err := h.Status(ctx)
	if text := fmt.Sprint(s.Slots, s.Alert, s.Hub); err != nil || text != "map[p1:false p2:false p3:false p4:true] true <nil>" {
		return fmt.Errorf("status: %s, %v", text, err)
	}
	// Somebody else is refused by name while we hold the lines.
	other, err := hat.Open(o)
	if err != nil {
		return err
	}
	if err := other.On(ctx, 4); err == nil || !strings.Contains(err.Error(), `another program ("hatchery") has it`) {
		return fmt.Errorf("a second one: %v", err)
	}
	if !registers.output(26) || registers.output(19) {
		return errors.New("line 26 is no output while it is held, or 19 is one though only read")
	}
	if err := errors.Join(other.Close(), h.Close()); err != nil {
		return err
	}
	// This is why: this kernel, Debian's 6.1, does not keep outputs.
	if registers.output(26) {
		return errors.New("line 26 is still an output after it was let go of")
	}
	// A kernel that says that it keeps outputs: lines are let go of each time.
	parameters := filepath.Join(dir, "sys/module/pinctrl_bcm2835/parameters")
	os.MkdirAll(parameters, 0o755)
	if err := os.WriteFile(filepath.Join(parameters, "persist_gpio_outputs"), []byte("Y\n"), 0o644); err != nil {
		return err
	}
	o.HoldLines = false
	if h, err = hat.Open(o); err != nil {
		return err
	}
	defer h.Close()
	if err := h.On(ctx, 3); err != nil {
		return fmt.Errorf("letting go: %w", err)
	}
	if registers.level(19) != "1" || registers.output(19) {
		return fmt.Errorf("letting go: line 19 is %s, an output: %v", registers.level(19), registers.output(19))
	}
	return nil
}

// registers are the GPIO controller's (BCM2835 ARM Peripherals, chapter 6).
type registers []byte

func mapRegisters() (registers, error) {
	f, err := os.OpenFile("/dev/mem", os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), 0x3f200000, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func (r registers) word(offset int) uint32 { return *(*uint32)(unsafe.Pointer(&r[offset])) }

// level is a line's in GPLEV0.
func (r registers) level(line int) string { return fmt.Sprint(r.word(0x34) >> line & 1) }

// output says whether a line's function in GPFSELn is that of an output.
func (r registers) output(line int) bool { return r.word(line/10*4)>>(line%10*3)&7 == 1 }

// Guest is the init of the emulated controller that package usbhost's test boots: a
// kernel with USB, and this program, which serves the boards that are plugged in
// and says on the console what came of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
	"hatchery/netboot/usbhost"
)

func main() {
	if err := run(); err != nil {
		say("failed: %v", err)
	}
	time.Sleep(time.Second) // for the console
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

var console sync.Mutex

func say(format string, args ...any) {
	console.Lock()
	defer console.Unlock()
	fmt.Printf("GUEST "+format+"\n", args...)
}

func run() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		os.MkdirAll(m[1], 0o755)
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	h := &usbhost.Host{Poll: time.Hour} // uevents alone have to do
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	var mu sync.Mutex
	ports := map[string]*usbboot.Port{}
	wiring := usbhost.Wiring{Hub: "1-1"}
	booted := 0
	// Attends before there is USB: everything comes by hotplug.
	attending := make(chan struct{})
	go func() {
		defer close(attending)
		h.Attend(ctx, func(devices []usbhost.Device) {
			var words []string
			for _, d := range devices {
				words = append(words, fmt.Sprintf("%s#%d=%04x:%04x/%d/%d", d.Path, d.Address, d.Vendor, d.Product, d.SerialIndex, d.Interfaces))
			}
			say("sees %s", strings.Join(words, " "))
		}, func(ctx context.Context, d usbhost.Device) {
			slot, ok := wiring.Slot(d.Path)
			if !ok {
				say("%s is no slot", d.Path)
				return
			}
			mu.Lock()
			if ports[d.Path] == nil {
				ports[d.Path] = new(usbboot.Port)
			}
			port := ports[d.Path]
			mu.Unlock()
			result, err := serve(ctx, h, d, slot, port)
			say("p%d %v %v bytes=%d error=%v", slot, result.Stage, result.End, result.Bytes, err)
			mu.Lock()
			defer mu.Unlock()
			if result.Stage == usbboot.StageFiles && result.End == usbboot.EndLeft {
				if booted++; booted == usbhost.Slots {
					cancel()
				}
			}
		})
	}()
	if err := load(); err != nil {
		return err
	}
	<-attending
	say("booted %d", booted)
	return nil
}

func serve(ctx context.Context, h *usbhost.Host, d usbhost.Device, slot int, port *usbboot.Port) (usbboot.Result, error) {
	t, err := h.Open(d)
	if err != nil {
		return usbboot.Result{}, err
	}
	defer t.Close()
	if slot == 1 {
		// A device that is open is not taken away.
		if again, err := h.Open(d); err == nil {
			again.Close()
			say("p1 was opened twice")
		} else {
			say("p1 opened twice: busy=%v", errors.Is(err, usbhost.ErrBusy))
		}
		// A transfer that hangs ends with its context, and the device goes on.
		if d.Stage() == usbboot.StageROM {
			short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			began := time.Now()
			_, err := t.Control(short, 0xc0, 0, 4, 0, make([]byte, 4), time.Minute)
			cancel()
			say("p1 called off: deadline=%v at once=%v", errors.Is(err, context.DeadlineExceeded), time.Since(began) < 30*time.Second)
			began = time.Now()
			_, err = t.Control(ctx, 0xc0, 0, 4, 0, make([]byte, 4), 200*time.Millisecond)
			say("p1 timed out: timeout=%v at once=%v", errors.Is(err, usbboot.ErrTimeout), time.Since(began) < 30*time.Second)
		}
	}
	return port.Serve(ctx, d.USBBoot(t), Partition(slot), usbboot.Options{
		Limits: usbboot.Limits{Announce: 10 * time.Second, Idle: 30 * time.Second, Bulk: 20 * time.Second},
		Told: func(e usbboot.Event) {
			if e.Kind == usbboot.Retried {
				say("p%d retried stall=%v", slot, errors.Is(e.Err, usbboot.ErrStall))
			}
		},
	})
}

// load loads the kernel's modules.
func load() error {
	list, err := os.ReadFile("/etc/hatchery/modules")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading %s: %w", name, err)
		}
	}
	return nil
}

// Partition is a slot's boot files; the test's are the same.
func Partition(slot int) usbboottest.Files {
	return usbboottest.Partition(uint64(slot), map[string]int{
		usbboot.Bootcode: 52_480, "start.elf": 100_000, "fixup.dat": 7_300, "kernel.img": 300_000 + slot,
		"initramfs.img": 65_536, "bcm2708-rpi-zero.dtb": 31_000, "overlays/dwc2.dtbo": 801,
	}, map[string]string{
		"config.txt":  "initramfs initramfs.img followkernel\ndtoverlay=dwc2\n",
		"cmdline.txt": fmt.Sprintf("hatchery.slot=%d", slot),
	})
}

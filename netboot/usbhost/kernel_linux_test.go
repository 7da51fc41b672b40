package usbhost_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/testtool"
	"hatchery/netboot/node/nodetest"
	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
)

// TestRealKernel has a real kernel between the server and the fake boards: an
// emulated machine whose USB devices are played by this process. So the kernel's own
// sysfs, uevents and usbfs are used, with hotplug, calling off and stalls.
func TestRealKernel(t *testing.T) {
	qemu := testtool.Need(t, "qemu-system-arm")
	kernel := nodetest.DebianKernel(t)
	initramfs := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(initramfs, nodetest.Initramfs(t, nodetest.Build(t, "hatchery/netboot/usbhost/guest"),
		kernel.Modules(t, "xhci-hcd", "xhci-pci"), nil), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute) // it only ends a test that hangs
	defer cancel()

	bulkOf := func(name string) func(usbboottest.Transfer) bool {
		return func(t usbboottest.Transfer) bool { return t.Direction == usbboottest.BulkOut && t.Name == name }
	}
	faults := map[int][]usbboottest.Fault{
		// The guest reads twice from a boot ROM that does not answer.
		1: {{At: 1, Mishap: usbboottest.Hang}, {At: 2, Mishap: usbboottest.Hang}},
		2: {{When: bulkOf("start.elf"), Mishap: usbboottest.Stall}, {When: bulkOf("kernel.img"), Mishap: usbboottest.Stall}},
	}
	args := []string{"-M", "virt,highmem=off", "-cpu", "cortex-a7", "-m", "256", "-nodefaults", "-no-reboot", "-display", "none",
		"-kernel", kernel.Image, "-initrd", initramfs, "-append", "console=ttyAMA0 quiet panic=-1", "-serial", "stdio",
		"-device", "qemu-xhci,id=usb", "-device", "usb-hub,bus=usb.0,port=1"}
	boards := map[int]*usbboottest.Board{}
	played := make(chan struct {
		slot int
		*redirected
	}, 4)
	for slot := 1; slot <= 4; slot++ {
		board := usbboottest.New(usbboottest.Options{Faults: faults[slot]})
		defer board.Power(false)
		boards[slot] = board
		socket := filepath.Join(t.TempDir(), "usb")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { conn.Close() })
			board.Power(true)
			r, err := redirect(ctx, conn, board)
			if err != nil {
				t.Errorf("slot %d: %v", slot, err)
				return
			}
			played <- struct {
				slot int
				*redirected
			}{slot, r}
		}()
		args = append(args, "-chardev", fmt.Sprintf("socket,id=board%d,path=%s", slot, socket),
			"-device", fmt.Sprintf("usb-redir,chardev=board%d,bus=usb.0,port=1.%d", slot, 5-slot))
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, qemu, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	console := out.String()
	if err != nil {
		t.Errorf("QEMU: %v", err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("the console:\n%s", console[max(0, len(console)-8000):])
		}
	}()

	for slot, board := range boards {
		if _, err := board.Booted(); err != nil {
			t.Errorf("slot %d: %v", slot, err)
		}
		if err := board.Err(); err != nil {
			t.Errorf("slot %d: the server broke the protocol: %v", slot, err)
		}
		want := usbboottest.Partition(uint64(slot), map[string]int{
			usbboot.Bootcode: 52_480, "start.elf": 100_000, "fixup.dat": 7_300, "kernel.img": 300_000 + slot,
			"initramfs.img": 65_536, "bcm2708-rpi-zero.dtb": 31_000, "overlays/dwc2.dtbo": 801,
		}, map[string]string{
			"config.txt":  "initramfs initramfs.img followkernel\ndtoverlay=dwc2\n",
			"cmdline.txt": fmt.Sprintf("hatchery.slot=%d", slot),
		})
		got := board.Received()
		for name, content := range want {
			if !bytes.Equal(got[name], content) {
				t.Errorf("slot %d: %s arrived with %d bytes that are not the file's %d", slot, name, len(got[name]), len(content))
			}
		}
	}
	for _, line := range []string{
		"p1 opened twice: busy=true", "p1 called off: deadline=true at once=true", "p1 timed out: timeout=true at once=true",
		"p1 rom bootcode.bin was taken bytes=52480 error=<nil>",
		"p2 retried stall=true", "booted 4",
	} {
		if !strings.Contains(console, "GUEST "+line) {
			t.Errorf("the console does not say %q", line)
		}
	}
	for range boards {
		if r := <-played; r.slot == 2 && r.halts != 2 {
			t.Errorf("slot 2's endpoint was cleared %d times after two stalls", r.halts)
		}
	}
}

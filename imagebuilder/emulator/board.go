package emulator

import (
	"fmt"

	"hatchery/internal/bootpart"
)

// A board is one that QEMU emulates.
type board struct {
	name    string         // QEMU's
	program string         // QEMU's emulator for its processor
	what    string         // for people
	filters bootpart.Model // of config.txt's sections, what the board answers to
	kernel  string         // what its boot loader loads where config.txt names nothing
	initrd  string         // and the initramfs that belongs to that, by auto_initramfs
	trees   []string       // device trees, the first that there is
	models  []string       // the models that it is
}

// zero is the Pi Zero: a BCM2835 with an ARM1176 and 512 MB, its USB port as a
// host. QEMU 7.2 (docs/system/arm/raspi.rst) has boards of the later
// processors too, but a ClusterHAT's images are of a base for the Zero, and
// run on it.
var zero = board{
	name:    "raspi0",
	program: "qemu-system-arm",
	what:    "a Pi Zero",
	filters: bootpart.ModelZero,
	kernel:  "kernel.img",
	initrd:  "initramfs",
	trees:   []string{"bcm2708-rpi-zero.dtb", "bcm2835-rpi-zero.dtb"},
	models:  []string{"zero", "auto"},
}

// differs says what a board is not of a model that it stands in for: "" where
// it is that model.
func (b board) differs(model string) string {
	for _, m := range b.models {
		if m == model {
			return ""
		}
	}
	switch model {
	case "zero-w":
		return fmt.Sprintf("a Zero W is booted as %s (%s): no Wi-Fi, no Bluetooth", b.what, b.name)
	case "zero-2-w":
		return fmt.Sprintf("QEMU has no Zero 2 W: booted as the nearest, %s (%s): one ARMv6 core instead of four ARMv8 ones, no Wi-Fi; a program that needs more than ARMv6 dies there", b.what, b.name)
	}
	return fmt.Sprintf("a Raspberry Pi %s is booted as the nearest, %s (%s): one ARMv6 core and 512 MB; a program that needs more than ARMv6 dies there", model, b.what, b.name)
}

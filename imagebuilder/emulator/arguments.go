package emulator

import (
	"fmt"
	"strings"

	"hatchery/internal/bootpart"
)

// An Argument is a kernel argument that the emulator needs.
type Argument struct {
	Word string `json:"word"`
	Why  string `json:"why"`
}

// needed are the arguments that raspi0 needs beside an image's own. The first three were
// seen to be needed with QEMU 7.2; the last two are for Raspberry Pi's own
// kernel and mean nothing to others.
var needed = []Argument{
	{"console=ttyAMA0,115200", "the only console that is emulated, in place of the image's"},
	{"initcall_blacklist=bcm2835_power_driver_init", "QEMU lacks the block of power domains, and the kernel dies at it"},
	{"highres=off", "fewer lost timer events (the emulated timer can be set to a moment that has passed)"},
	{"dwc_otg.fiq_enable=0", "QEMU has no fast interrupts for Raspberry Pi's own USB driver"},
	{"dwc_otg.fiq_fsm_enable=0", "as above"},
}

// longestCmdline is what the kernel reads of its arguments, in bytes: Linux's
// arch/arm/include/uapi/asm/setup.h, COMMAND_LINE_SIZE, without the zero at the end.
const longestCmdline = 1023

// cmdline makes the kernel's arguments of an image's cmdline.txt.
func cmdline(image []byte, added []Argument) (string, error) {
	line, err := bootpart.ParseCmdline(image)
	if err != nil {
		return "", err
	}
	line.RemoveKey("console")
	line.Remove(func(word string) bool {
		// What hides a console's output.
		return word == "quiet" || word == "splash" || strings.HasPrefix(word, "plymouth.")
	})
	for _, a := range added {
		if err := line.Add(a.Word); err != nil {
			return "", err
		}
	}
	text := line.String()
	if len(text) > longestCmdline {
		return "", fmt.Errorf("with what the emulator needs, the kernel's arguments have %d bytes, and the kernel drops what is behind the first %d: make `boot: {cmdline: …}` or --append shorter", len(text), longestCmdline)
	}
	return text, nil
}

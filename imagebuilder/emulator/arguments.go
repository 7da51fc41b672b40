package emulator

import (
	"strings"

	"hatchery/internal/bootpart"
)

// An Argument is a kernel argument that the emulator needs.
type Argument struct {
	Word string `json:"word"`
	Why  string `json:"why"`
}

// argumentsFor are the arguments that raspi0 needs beside an image's own, in a
// node's guest or the controller's. Each was
// seen to be needed with QEMU 7.2, but the last two, which are for Raspberry Pi's own
// kernel and mean nothing to others.
func argumentsFor(node bool) []Argument {
	// QEMU's card answers to two of Linux's drivers. With cdc_ether the kernel
	// asks it 1000 times a second for its state, which keeps an idle guest's
	// QEMU at 76 % of a core, and at 28 % with cdc_subset. That one gives the card a MAC
	// address of its own choice: a node's only link gets the slot's from the
	// agent, but the controller tells its links apart by their addresses.
	driver := Argument{"module_blacklist=cdc_subset", "it may take the emulated network cards before cdc_ether does, with random MAC addresses"}
	if node {
		driver = Argument{"module_blacklist=cdc_ether,rndis_host", "cdc_subset drives the emulated network card at a third of the work"}
	}
	return []Argument{
		{"console=ttyAMA0,115200", "the only console that is emulated, in place of the image's"},
		{"initcall_blacklist=bcm2835_power_driver_init", "QEMU lacks the block of power domains, and the kernel dies at it"},
		driver,
		{"highres=off", "fewer lost timer events (the emulated timer can be set to a moment that has passed)"},
		{"dwc_otg.fiq_enable=0", "QEMU has no fast interrupts for Raspberry Pi's own USB driver"},
		{"dwc_otg.fiq_fsm_enable=0", "as above"},
	}
}

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
	return line.String(), nil
}

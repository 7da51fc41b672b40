package bootfiles

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"hatchery/internal/bootpart"
	"hatchery/internal/parttable"

	"hatchery/netboot/initramfs"
)

// Lengths of the command line in bytes.
const (
	commandLine32 = bootpart.CmdlineSize // COMMAND_LINE_SIZE of arch/arm/include/uapi/asm/setup.h
	commandLine64 = 2048                 // …of arch/arm64
	// firmwareWords is what the firmware puts in front: memory, sound, display,
	// serial number. A Zero W's are some 300 bytes.
	firmwareWords = 400
)

// maxCmdline bounds cmdline.txt, in bytes.
const maxCmdline = 64 << 10

// rootPartition tells which partition of the disk root= names, in one of the
// ways that nodeinit knows: PARTUUID=… and /dev/mmcblk0pN.
func rootPartition(value string, table *parttable.Table) (int, error) {
	remedy := fmt.Sprintf("write root=PARTUUID=%s into cmdline.txt, which names the root partition on a card and over the link", table.PARTUUID(parttable.Root))
	number := ""
	if key, id, _ := strings.Cut(value, "="); strings.EqualFold(key, "PARTUUID") {
		disk, part, _ := strings.Cut(id, "-")
		if !strings.EqualFold(disk, fmt.Sprintf("%08x", table.DiskID)) {
			return 0, fmt.Errorf("root=%s names another disk than the slot's: %s", value, remedy)
		}
		n, err := strconv.ParseUint(part, 16, 8)
		if err != nil {
			return 0, fmt.Errorf("root=%s names no partition: %s", value, remedy)
		}
		number = strconv.FormatUint(n, 10)
	} else {
		ok := false
		if number, ok = strings.CutPrefix(value, "/dev/mmcblk0p"); !ok {
			return 0, fmt.Errorf("root=%s is not found over the USB link: %s", value, remedy)
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > len(table.Partitions) || !table.Partition(n).Used() {
		return 0, fmt.Errorf("root=%s names a partition that is not there: %s", value, remedy)
	}
	return n, nil
}

// wanted are the words that tell nodeinit what to do.
func wanted(slot int, mode, gadget string, nbd netip.AddrPort, more []string) []string {
	words := []string{"hatchery.slot=" + strconv.Itoa(slot), "hatchery.root=" + mode}
	if mode != Reimage {
		words = append(words, "hatchery.nbd="+nbd.String())
	}
	return append(append(words, "hatchery.gadget="+gadget), more...)
}

// slotCmdline makes the slot's command line of the image's: with the words in
// front, so that they are there even if a firmware with more of its own than
// is known here makes the kernel cut the end.
func slotCmdline(image *bootpart.Cmdline, words []string, architecture string) (string, error) {
	front := new(bootpart.Cmdline)
	for _, word := range words {
		key, _, _ := strings.Cut(word, "=")
		image.RemoveKey(key)
		if err := front.Add(word); err != nil {
			return "", err
		}
	}
	line := strings.TrimSpace(front.String() + " " + strings.TrimSpace(image.String()))
	limit := commandLine32
	if architecture == initramfs.ARM64 {
		limit = commandLine64
	}
	if limit -= 1 + firmwareWords; len(line) > limit {
		return "", &CmdlineTooLongError{Length: len(line), Limit: limit}
	}
	return line, nil
}

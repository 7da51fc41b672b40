package drive

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Names of block devices that are no disk which a card can be: optical and
// floppy drives, memory, what is made of other disks or comes over a network,
// and what eMMC has beside its user area (the kernel's
// Documentation/admin-guide/devices.txt, drivers/mmc/core/block.c).
var noDisk = regexp.MustCompile(`^(sr|scd|fd|ram|zram|md|dm-|nbd|mtdblock|ubiblock|bcache|drbd|zd|rbd|rnbd|nullb|pmem)[0-9]|^md_|^mmcblk[0-9]+(boot|rpmb|gp)`)

// kind is Disk, Loop, or "" for neither.
func (t *table) kind(b *block) Kind {
	switch {
	case strings.HasPrefix(b.name, "loop"):
		return Loop
	case b.disk != nil, noDisk.MatchString(b.name), text(b.dir, "hidden") == "1",
		text(b.dir, "device/type") == "5", // SCSI's CD-ROM (include/scsi/scsi_proto.h)
		strings.Contains(filepath.ToSlash(b.dir), "/devices/virtual/block/"):
		return ""
	}
	return Disk
}

// drive describes a disk.
func (t *table) drive(b *block, kind Kind) Drive {
	d := Drive{Path: b.plain(), Kind: kind, Number: b.number, ReadOnly: text(b.dir, "ro") == "1", Removable: text(b.dir, "removable") == "1"}
	// In 512 bytes each, whatever the block size (block/genhd.c).
	if sectors := number(b.dir, "size"); sectors > 0 && sectors <= math.MaxInt64/512 {
		d.Size = sectors * 512
	}
	if sequence := number(b.dir, "diskseq"); sequence > 0 {
		d.Sequence = uint64(sequence)
	}
	if kind == Loop {
		d.Bus, d.Model, d.Backing = "loop", printable(text(b.dir, "loop/backing_file")), b.root()
	} else {
		t.identify(b, &d)
	}
	seen := map[string]bool{}
	t.use(b, &d, seen)
	t.below(b, &d, seen)
	return d
}

var (
	usb  = regexp.MustCompile(`/usb[0-9]+/`)
	ata  = regexp.MustCompile(`/ata[0-9]+/`)
	scsi = regexp.MustCompile(`/host[0-9]+/`)
)

// identify finds out what a disk is called and where it is plugged in.
func (t *table) identify(b *block, d *Drive) {
	dir := filepath.ToSlash(b.dir)
	vendor, model, serial := text(b.dir, "device/vendor"), text(b.dir, "device/model"), text(b.dir, "device/serial")
	switch {
	case strings.HasPrefix(b.name, "mmcblk"):
		d.Bus = "mmc"
		// "SD", or "MMC" for what is soldered in nearly always.
		switch text(b.dir, "device/type") {
		case "SD":
			d.Removable = true
		case "MMC":
			if !d.Removable {
				d.Bus = "emmc"
			}
		}
		vendor, model = cardMakers[strings.ToLower(text(b.dir, "device/manfid"))], text(b.dir, "device/name")
	case usb.MatchString(dir):
		d.Bus = "usb"
		if plug := t.plug(b); plug != "" {
			if vendor == "" && model == "" {
				vendor, model = text(plug, "manufacturer"), text(plug, "product")
			}
			serial = text(plug, "serial")
		}
	case strings.HasPrefix(b.name, "nvme"):
		d.Bus, vendor = "nvme", ""
	case strings.HasPrefix(b.name, "vd"):
		// The vendor is a number of the virtual bus.
		d.Bus, vendor, serial = "virtio", "", text(b.dir, "serial")
	case strings.HasPrefix(b.name, "xvd"):
		d.Bus = "xen"
	case ata.MatchString(dir):
		d.Bus = "ata"
	case scsi.MatchString(dir):
		d.Bus = "scsi"
	}
	if vendor == "ATA" {
		vendor = "" // what the kernel puts there for want of one
	}
	if serial == "" && d.Bus != "usb" {
		serial = vitalSerial(text(b.dir, "device/vpd_pg80"))
	}
	if serial == "" {
		serial = t.udev(b, "ID_SERIAL_SHORT")
	}
	d.Model, d.Serial = printable(vendor+" "+model), printable(serial)
}

// cardMakers are the makers of SD cards by their numbers in a card's CID, which
// the SD Association keeps for itself; these are seen on cards.
var cardMakers = map[string]string{
	"0x000002": "Toshiba",
	"0x000003": "SanDisk",
	"0x00001b": "Samsung",
	"0x000027": "Phison",
	"0x000028": "Lexar",
	"0x000041": "Kingston",
	"0x000074": "Transcend",
	"0x000082": "Sony",
}

// plug is the folder of the USB device that a disk is.
func (t *table) plug(b *block) string {
	for dir := filepath.Dir(b.dir); len(dir) > len(t.path("sys")) && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if text(dir, "idVendor") != "" {
			return dir
		}
	}
	return ""
}

// vitalSerial is the serial of a SCSI disk's page 0x80 of vital product data
// (SPC-4, 7.8.18): four bytes of head, of which the last two are the length.
func vitalSerial(page string) string {
	if len(page) < 4 || page[1] != 0x80 {
		return ""
	}
	rest := page[4:]
	return rest[:min(len(rest), int(page[2])<<8|int(page[3]))]
}

// use finds out who uses a block, its partitions, and what is made of them.
func (t *table) use(b *block, d *Drive, seen map[string]bool) {
	if seen[b.name] {
		return
	}
	seen[b.name] = true
	t.direct(b, d, seen)
	for _, p := range b.parts {
		t.use(p, d, seen)
	}
}

// direct is use without the partitions.
func (t *table) direct(b *block, d *Drive, seen map[string]bool) {
	for _, m := range t.on[b.name] {
		mount := Mount{Device: b.device(), Place: m.place, Casual: casual(m.place)}
		if !slices.Contains(d.Mounts, mount) {
			d.Mounts = append(d.Mounts, mount)
		}
		d.System = d.System || system(m.place)
	}
	if t.swaps[b.name] {
		d.Users = append(d.Users, "swap on "+b.device())
	}
	for _, name := range b.holders {
		h := t.named[name]
		if h == nil {
			d.Users = append(d.Users, fmt.Sprintf("%s on %s", printable(name), b.plain()))
			continue
		}
		if !seen[h.name] {
			d.Users = append(d.Users, fmt.Sprintf("%s on %s", printable(made(h)), b.plain()))
		}
		t.use(h, d, seen)
	}
	// The kernel does not count loop devices among the holders.
	for _, l := range t.loops[b.name] {
		if !seen[l.name] {
			d.Users = append(d.Users, fmt.Sprintf("the loop device %s on %s", l.name, b.plain()))
			t.use(l, d, seen)
		}
	}
}

// made says what a block that is made of others is.
func made(b *block) string {
	name, uuid := text(b.dir, "dm/name"), text(b.dir, "dm/uuid")
	switch {
	case strings.HasPrefix(uuid, "CRYPT-"):
		return "the encrypted volume " + name
	case strings.HasPrefix(uuid, "LVM-"):
		return "the LVM volume " + name
	case name != "":
		return "the mapped device " + name
	case strings.HasPrefix(b.name, "md"):
		return "the RAID " + b.name
	}
	return b.name
}

// casual says whether a place is where desktops mount what is plugged in
// (udisks: /run/media/USER or /media/USER, usbmount and Debian's fstab: /media).
// In /media/root-ro and /media/root-rw overlayroot has the machine's own root.
func casual(place string) bool {
	if liesIn(place, "/media/root-ro") || liesIn(place, "/media/root-rw") {
		return false
	}
	return strings.HasPrefix(place, "/media/") || strings.HasPrefix(place, "/run/media/")
}

// systemPlaces are where a machine mounts what it runs from; the later ones are
// live systems' (Ubuntu, Debian, Arch, Fedora) and ostree's.
var systemPlaces = []string{
	"/", "/usr", "/etc", "/var", "/home", "/boot", "/efi", "/nix", "/nix/store",
	"/cdrom", "/run/live/medium", "/lib/live/mount/medium", "/run/archiso/bootmnt", "/run/initramfs/live", "/sysroot",
}

func system(place string) bool {
	return strings.HasPrefix(place, "/boot/") || slices.Contains(systemPlaces, place)
}

package spec

import (
	"regexp"
	"strings"

	"hatchery/internal/capacity"
)

// minDisk is less than any base image has, and more than a mistyped unit gives;
// minQuota is what the first boot of a node with Docker stores.
const (
	minDisk  = 1_000_000_000
	minQuota = 256_000_000
	maxDisk  = 2_000_000_000_000 // what an MBR can describe

	// diskStep is what disks are a multiple of: where partitions begin on cards.
	diskStep = 4 << 20
)

func (n *Netboot) keys() []key {
	return []key{
		{
			name: "disk", syntax: "a size", example: "8GB", initial: "8GB",
			about: "The size of the disk that a slot sees. Nothing is stored on the controller for what a node has not written.",
			text:  func(d *decoder, v item) { n.Disk = d.size(v, minDisk) / diskStep * diskStep },
		},
		{
			name: "quota", syntax: "a size", example: "4GB", initial: "4GB",
			about: "How much of a slot's own data the controller stores; a node that writes more is told that its disk is full. Four slots that are full need four times this on the controller's card.",
			text:  func(d *decoder, v item) { n.Quota = d.size(v, minQuota) },
		},
		{
			name: "firmware", elsewise: "none: the boot partition of the slot's own image has them", placeholder: "NAME", sampleName: "bootcode.bin",
			about:  "Firmware files that slots are given instead of those of their image, for releases whose firmware does not boot over USB.",
			entry:  func(d *decoder, name item) (key, bool) { return d.firmware(name, n) },
			sample: func() key { return key{keys: new(Firmware).keys()} },
		},
	}
}

func (f *Firmware) keys() []key {
	return []key{
		{
			name: "file", syntax: "a file", example: "./firmware/bootcode.bin", required: "name the file",
			about: "The file. It is laid into the controller's image.",
			text: func(d *decoder, v item) {
				if place, ok := d.existingFile(v, "the firmware file"); ok {
					f.File = place
				}
			},
		},
		{
			name: "sha256", syntax: "64 hexadecimal digits", example: strings.Repeat("0123456789abcdef", 4), required: "write the SHA-256 digest of the file (`sha256sum`)",
			about: "The SHA-256 digest that the file has to have.",
			text:  func(d *decoder, v item) { f.SHA256 = d.sha256(v) },
		},
	}
}

var firmwarePattern = regexp.MustCompile(`^(bootcode|start[a-z0-9_]*|fixup[a-z0-9_]*)\.(bin|elf|dat)$`)

func (d *decoder) firmware(name item, n *Netboot) (key, bool) {
	if !firmwarePattern.MatchString(name.text) {
		d.problem(name, "%s is no file of the firmware: bootcode.bin, start*.elf or fixup*.dat", quote(name.text))
		return key{}, false
	}
	f := &Firmware{Name: name.text}
	return key{keys: f.keys(), end: func(*decoder, item) { n.Firmware = append(n.Firmware, *f) }}, true
}

// size reads a number of bytes.
func (d *decoder) size(v item, least int64) int64 {
	n, err := capacity.Parse(v.text)
	switch {
	case err != nil:
		d.problem(v, "%s is not a size: write one such as 8GB", quote(v.text))
	case n < least:
		d.problem(v, "%s is too small: at least %s", quote(v.text), capacity.Text(least))
	case n > maxDisk:
		d.problem(v, "%s is too large: at most %s", quote(v.text), capacity.Text(maxDisk))
	}
	return n
}

// checkNetboot sees that a quota is of use.
func (d *decoder) checkNetboot(at item, n *Netboot) {
	if len(d.problems) > 0 && (d.problemsUnder(at.path+".disk") || d.problemsUnder(at.path+".quota")) {
		return
	}
	if n.Quota > n.Disk+n.Disk/8 {
		if said, ok := d.at[at.path+".quota"]; ok {
			d.problem(said, "the quota is larger than the disk (%s): make the disk larger, or the quota smaller", capacity.Text(n.Disk))
		}
	}
}

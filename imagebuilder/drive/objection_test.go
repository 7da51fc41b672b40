package drive_test

import (
	"errors"
	"strings"
	"testing"

	"hatchery/imagebuilder/drive"
	"hatchery/imagebuilder/flash"
)

var _ flash.Card = (*drive.Handle)(nil)

func TestObjections(t *testing.T) {
	card := drive.Drive{Path: "/dev/sdx", Kind: drive.Disk, Bus: "usb", Size: 32e9, Removable: true}
	held := drive.Mount{Device: "/dev/sdx1", Place: "/data"}
	casual := drive.Mount{Device: "/dev/sdx2", Place: "/media/ann/x", Casual: true}
	for _, c := range []struct {
		summary string
		change  func(*drive.Drive)
		want    string // with ! before what is final
	}{
		{"a card", func(*drive.Drive) {}, ""},
		{"a card that the desktop mounted", func(d *drive.Drive) { d.Mounts = []drive.Mount{casual} }, ""},
		{"the system's", func(d *drive.Drive) { d.System = true; d.Mounts = []drive.Mount{held} }, "!this machine runs from it"},
		{"empty", func(d *drive.Drive) { d.Size = 0; d.ReadOnly = true }, "!there is no card in it"},
		{"locked", func(d *drive.Drive) { d.ReadOnly = true }, "!it is read-only: slide the lock switch of the card, or of its adapter, away from LOCK and put it in again"},
		{"mounted", func(d *drive.Drive) { d.Mounts = []drive.Mount{casual, held} }, "it is mounted at /data, where nothing is mounted by plugging it in: unmount it first, if it is the card"},
		{"in use", func(d *drive.Drive) { d.Users = []string{"swap on /dev/sdx1"} }, "it is in use: swap on /dev/sdx1"},
		{"of the machine", func(d *drive.Drive) { d.Removable, d.Bus = false, "ata" }, "it is a disk of this machine: not removable, and neither on USB nor in a card reader"},
		{"an SSD by a name", func(d *drive.Drive) { d.Removable, d.Size = false, 256<<30 }, ""},
		{"a larger one", func(d *drive.Drive) { d.Removable, d.Size = false, 256<<30+1 }, "it looks like an external hard disk, not like a card (275 GB)"},
		{"the largest card", func(d *drive.Drive) { d.Size = 1 << 40 }, ""},
		{"a larger one than any card", func(d *drive.Drive) { d.Size = 1<<40 + 512 }, "it is larger than any card (1.1 TB)"},
		{"the smallest card", func(d *drive.Drive) { d.Size = 256 << 20 }, ""},
		{"a smaller one", func(d *drive.Drive) { d.Size = 1 << 20 }, "it is smaller than any card that holds an image (1.0 MB)"},
		{"a file", func(d *drive.Drive) { d.Kind, d.Bus, d.Removable, d.Size = drive.File, "", false, 4096 }, ""},
		{"an empty file", func(d *drive.Drive) { d.Kind, d.Size = drive.File, 0 }, "!the file is empty: make it as large as the card that it stands for (truncate -s 8G FILE)"},
		{"a file of odd length", func(d *drive.Drive) { d.Kind, d.Size = drive.File, 1000 }, "!its 1000 bytes are no whole blocks of 512: make it as large as the card that it stands for (truncate -s 8G FILE)"},
		{"a file that is attached", func(d *drive.Drive) { d.Kind, d.Users = drive.File, []string{"attached as /dev/loop1"} }, "!it is in use: attached as /dev/loop1"},
		{"a loop device", func(d *drive.Drive) { d.Kind, d.Bus, d.Removable, d.Size = drive.Loop, "loop", false, 4096 }, ""},
		{"an empty loop device", func(d *drive.Drive) { d.Kind, d.Size = drive.Loop, 0 }, "!no file is attached to it (losetup)"},
		{"a read-only loop device", func(d *drive.Drive) { d.Kind, d.ReadOnly = drive.Loop, true }, "!it is read-only"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d := card
			c.change(&d)
			var texts []string
			final := false
			for _, o := range d.Objections() {
				text := o.Text
				if o.Final {
					final, text = true, "!"+text
				}
				texts = append(texts, text)
			}
			got := strings.Join(texts, "\n")
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if want := c.want == "" && d.Kind == drive.Disk; d.Candidate() != want {
				t.Errorf("Candidate is %v", d.Candidate())
			}
			var refused *drive.RefusedError
			if err := d.Refusal(false); errors.As(err, &refused) != (c.want != "") {
				t.Errorf("without force: %v", err)
			}
			if err := d.Refusal(true); errors.As(err, &refused) != final {
				t.Errorf("with force: %v", err)
			}
		})
	}
}

// TestTexts: what devices and desktops say does not reach terminals as it is.
func TestTexts(t *testing.T) {
	if got := drive.Printable(" a\x1b[2J \xff b\u202e "); got != "a [2J b" {
		t.Errorf("printable: %q", got)
	}
	if got := drive.Shown("/media/\x1b[2J"); got != `"/media/\x1b[2J"` {
		t.Errorf("shown: %s", got)
	}
}

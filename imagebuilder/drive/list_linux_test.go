package drive_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/drive"
)

func TestListLinux(t *testing.T) {
	for _, c := range []struct{ summary, tree string }{
		{"NVMe with LUKS and LVM, a stick in use by the desktop, a card in a reader", "laptop"},
		{"a Raspberry Pi's own card, an empty slot, a locked card", "pi"},
		{"RAID, btrfs, eMMC, hard disks on USB, sticks in use", "desk"},
		{"a root that is an overlay over a card", "overlayroot"},
	} {
		t.Run(c.tree, func(t *testing.T) {
			all, err := drive.LinuxList(t.Context(), tree(t, c.tree))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", "linux", c.tree+".want"), describe(all))
		})
	}
}

// TestBtrfsWithoutSource: where a mount names no device, each btrfs that no other
// mount has may be it.
func TestBtrfsWithoutSource(t *testing.T) {
	root := plant(t, expand(`
disk sda 8:0 pci0000:00/usb1/1-1/block 31116288 1 0
disk sdb 8:16 pci0000:00/usb1/1-2/block 31116288 1 0
sys/fs/btrfs/aaaa/devices/sda -> x
sys/fs/btrfs/bbbb/devices/sdb -> x
proc/self/mountinfo : 26 1 0:30 / / rw shared:1 - btrfs /dev/root rw
proc/self/mountinfo : 27 26 0:31 / /media/ann/b rw shared:1 - btrfs /dev/sdb rw
`))
	all, err := drive.LinuxList(t.Context(), root)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	if !all[0].System || all[1].System {
		t.Errorf("got\n%s", describe(all))
	}
}

// TestManyDevices: file systems that name several devices, and ZFS, which names
// none.
func TestManyDevices(t *testing.T) {
	root := plant(t, expand(`
disk sda 8:0 pci0000:00/ata1/block 31116288 0 0
disk sdb 8:16 pci0000:00/ata2/block 31116288 0 0
disk sdc 8:32 pci0000:00/ata3/block 31116288 0 0
part sdc3 8:35 pci0000:00/ata3/block/sdc 3 1000
disk sdd 8:48 pci0000:00/ata4/block 31116288 0 0
run/udev/data/b8:35 = E:ID_FS_LABEL=rpool\nE:ID_FS_TYPE=zfs_member
run/udev/data/b8:48 = E:ID_FS_TYPE=ext4\nE:ID_SERIAL_SHORT=D4
proc/self/mountinfo : 26 1 0:30 / / rw shared:1 - zfs rpool/ROOT/debian rw
proc/self/mountinfo : 27 26 0:31 / /home rw shared:1 - bcachefs /dev/sda:/dev/sdb rw
`))
	all, err := drive.LinuxList(t.Context(), root)
	if err != nil || len(all) != 4 {
		t.Fatal(all, err)
	}
	for i, system := range []bool{true, true, true, false} {
		if all[i].System != system {
			t.Errorf("%s: System is %v", all[i].Path, all[i].System)
		}
	}
	if all[3].Serial != "D4" {
		t.Errorf("the serial of udev's: %q", all[3].Serial)
	}
}

// TestLiveSystem: the stick that a live system runs from is not a card.
func TestLiveSystem(t *testing.T) {
	for _, place := range []string{"/cdrom", "/run/live/medium", "/run/initramfs/live", "/run/archiso/bootmnt", "/boot/firmware", "/sysroot"} {
		root := plant(t, expand(`
disk sda 8:0 pci0000:00/usb1/1-1/block 31116288 1 0
part sda1 8:1 pci0000:00/usb1/1-1/block/sda 1 1000
proc/self/mountinfo : 27 26 8:1 / `+place+` ro shared:1 - iso9660 /dev/sda1 ro
`))
		all, err := drive.LinuxList(t.Context(), root)
		if err != nil || len(all) != 1 || !all[0].System {
			t.Errorf("%s: %v\n%s", place, err, describe(all))
		}
	}
}

func TestFindByNumber(t *testing.T) {
	for _, c := range []struct{ summary, tree, path, number, want string }{
		{"a stick", "laptop", "/dev/disk/by-id/usb-SanDisk", "8:0", "/dev/sda"},
		{"a partition", "laptop", "/dev/sda1", "8:1", "/dev/sda1 is a partition: an image is for a whole disk, name /dev/sda"},
		{"an optical drive", "laptop", "/dev/sr0", "11:0", "/dev/sr0 is no disk that a card can be: `hatchery flash --list` shows those that are"},
		{"an LVM volume", "laptop", "/dev/mapper/vg-root", "254:1", "/dev/mapper/vg-root is no disk that a card can be: `hatchery flash --list` shows those that are"},
		{"a boot area of eMMC", "desk", "/dev/mmcblk1boot0", "179:8", "/dev/mmcblk1boot0 is no disk that a card can be: `hatchery flash --list` shows those that are"},
		{"one that went away", "laptop", "/dev/sdz", "65:144", "/dev/sdz is no disk of this machine any more: `hatchery flash --list` shows those that are"},
		{"the machine's own", "pi", "/dev/mmcblk0", "179:0", "/dev/mmcblk0"},
		{"a loop device", "laptop", "/dev/loop3", "7:3", "/dev/loop3"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d, err := drive.LinuxNumbered(tree(t, c.tree), c.path, c.number)
			got := d.Path
			var mistake *drive.InputError
			if err != nil {
				if got = err.Error(); !errors.As(err, &mistake) {
					t.Errorf("%T is no *InputError", err)
				}
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "card.img")
	if err := os.WriteFile(file, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "round")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ summary, path, want string }{
		{"a file", file, "file " + file},
		{"a link to it", link, "file " + file},
		{"a folder", dir, dir + " is a folder: name the disk itself, which `hatchery flash --list` shows"},
		{"a character device", "/dev/null", "/dev/null is neither a disk nor a file: `hatchery flash --list` shows the disks of this machine"},
		{"no device", "/dev/sdzzz", "/dev/sdzzz is not there: `hatchery flash --list` shows the disks of this machine"},
		{"no file", filepath.Join(dir, "none"), filepath.Join(dir, "none") + " is not there: name a disk of `hatchery flash --list`, or make a file of a card's size first (truncate -s 8G FILE)"},
		{"below a file", filepath.Join(file, "x"), filepath.Join(file, "x") + " is no path of a disk: `hatchery flash --list` shows the disks of this machine"},
		{"a link to itself", loop, loop + " is no path of a disk: `hatchery flash --list` shows the disks of this machine"},
		{"nothing", "", "no drive is named"},
		{"no name", "a\x00b", `"a\x00b" is no path of a disk: ` + "`hatchery flash --list` shows the disks of this machine"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d, err := drive.Find(t.Context(), c.path)
			got := string(d.Kind) + " " + d.Path
			if err != nil {
				got = err.Error()
				var mistake *drive.InputError
				if !errors.As(err, &mistake) {
					t.Errorf("%T is no *InputError", err)
				}
			} else if objections := d.Objections(); len(objections) > 0 || d.Candidate() {
				t.Errorf("objections %v, candidate %v", objections, d.Candidate())
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestThisMachine: whatever this machine runs from, it is no candidate.
func TestThisMachine(t *testing.T) {
	all, err := drive.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.Candidate() && d.System {
			t.Errorf("%s is proposed, and the machine runs from it", d.Path)
		}
		for _, m := range d.Mounts {
			if m.Place == "/" && !d.System {
				t.Errorf("%s has / and is not the system's", d.Path)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := drive.List(ctx); len(all) > 0 && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("90 26 8:1 / /media/ann/boot\\040fs rw,nosuid shared:5 - vfat /dev/sda1 rw\n")
	f.Add("26 1 0:30 / / rw - btrfs /dev/root rw")
	f.Add(" - \n - a b\n1 2 8:1 a b c - d\\777 e\\40")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range drive.ParseMounts(text) {
			if !strings.Contains(m[0], ":") || len(m[1]) > len(text) {
				t.Errorf("%q is a mount of %q", m, text)
			}
		}
	})
}

func FuzzSwaps(f *testing.F) {
	f.Add("Filename\t\t\t\tType\n/dev/dm-2                               partition\t16777212\t0\t\t-2\n/swap\\040file\tfile\t1\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range drive.ParseSwaps(text) {
			if !strings.HasPrefix(name, "/") {
				t.Errorf("%q is swap of %q", name, text)
			}
		}
	})
}

func TestParsers(t *testing.T) {
	mounts := drive.ParseMounts("43 26 8:113 / /data\\011\\134x\\012\\04 rw - ext4 /dev/sdh1 rw\n1 2 3 / / rw - ext4 /dev/x rw\n1 2 a:b / / rw - ext4 /dev/x rw\n26 1 0:5 / /p rw,x shared:1 master:2 - fuse.x a\\040b rw")
	want := [][4]string{{"8:113", "/data\t\\x\n\\04", "ext4", "/dev/sdh1"}, {"0:5", "/p", "fuse.x", "a b"}}
	if diff := cmp.Diff(want, mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	swaps := drive.ParseSwaps("Filename\tType\n/dev/sdg1    partition\t5\n/swap\\040file\tfile\t1\nnonsense\n")
	if diff := cmp.Diff([]string{"/dev/sdg1", "/swap file"}, swaps); diff != "" {
		t.Errorf("swaps (-want +got):\n%s", diff)
	}
	if got := drive.Quoted("/media/ann/it's"); got != `'/media/ann/it'\''s'` {
		t.Errorf("quoted: %s", got)
	}
}

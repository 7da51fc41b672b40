package diskimage_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

const mib = 1 << 20

// open opens an image file for the length of the test.
func open(t testing.TB, path string) *diskimage.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	im, err := diskimage.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func assembled(t testing.TB, im *diskimage.Image) diskimage.Tree {
	t.Helper()
	tree, err := im.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// blank makes a sparse file of zeros.
func blank(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// sfdisk partitions a file as a script says.
func sfdisk(t testing.TB, path, script string) {
	t.Helper()
	cmd := exec.Command(testtool.Need(t, "sfdisk"), "-q", "--no-reread", "--no-tell-kernel", path)
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(script, "NODE", path))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
}

// insert writes one file into another.
func insert(t testing.TB, into, from string, offset int64) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(into, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

// patch writes bytes into a file.
func patch(t testing.TB, path string, offset int64, data string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(data), offset); err != nil {
		t.Fatal(err)
	}
}

// TestPartitionsAsSfdiskSees holds tables that sfdisk makes against what it
// says of them.
func TestPartitionsAsSfdiskSees(t *testing.T) {
	for _, test := range []struct {
		summary, script, kind string
		size                  int64
	}{
		{"MBR", "label: dos\nlabel-id: 0x5e7a11d0\nstart=8192, size=8192, type=c, bootable\nsize=16384, type=83\n", diskimage.MBR, 64 * mib},
		{"MBR with a gap", "label: dos\nlabel-id: 0x1\nNODE2 : start=8192, size=8192, type=83\n", diskimage.MBR, 64 * mib},
		{"logical partitions", "label: dos\nlabel-id: 0xdeadbeef\nsize=8192, type=c\nsize=8192, type=83\nsize=90000, type=f\n" +
			"size=8192, type=83\nsize=8192, type=82\nsize=8192, type=b\n", diskimage.MBR, 64 * mib},
		{"GPT", "label: gpt\nlabel-id: 0B8D10F2-4DA1-4A31-A1B9-0D3C9B7F9A11\n" +
			"size=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=11111111-2222-3333-4444-555555555555, name=\"EFI system\"\n" +
			"size=16384, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=21111111-2222-3333-4444-555555555555, name=\"wurzel-ä\"\n", diskimage.GPT, 64 * mib},
		{"GPT with a gap", "label: gpt\nlabel-id: 0B8D10F2-4DA1-4A31-A1B9-0D3C9B7F9A11\n" +
			"NODE7 : start=8192, size=8192, uuid=11111111-2222-3333-4444-555555555555\n", diskimage.GPT, 64 * mib},
		{"an empty table", "label: dos\nlabel-id: 0x77\n", diskimage.MBR, 4 * mib},
	} {
		t.Run(test.summary, func(t *testing.T) {
			path := blank(t, test.size)
			sfdisk(t, path, test.script)
			var says struct {
				PartitionTable struct {
					Label, ID  string
					Partitions []struct {
						Node             string
						Start, Size      int64
						Type, UUID, Name string
						Bootable         bool
					}
				}
			}
			if err := json.Unmarshal([]byte(testtool.Run(t, "sfdisk", "-J", path)), &says); err != nil {
				t.Fatal(err)
			}
			var want, got strings.Builder
			fmt.Fprintln(&want, strings.Replace(says.PartitionTable.Label, "dos", "mbr", 1), strings.TrimLeft(strings.ToLower(says.PartitionTable.ID), "0x"))
			for _, p := range says.PartitionTable.Partitions {
				fmt.Fprintln(&want, strings.TrimPrefix(p.Node, path), p.Start*512, p.Size*512, strings.ToLower(strings.TrimLeft(p.Type, "0")), strings.ToLower(p.UUID), p.Name, p.Bootable)
			}
			im := open(t, path)
			fmt.Fprintln(&got, im.Table().Kind, strings.TrimLeft(strings.ToLower(im.Table().DiskID), "0x"))
			for _, p := range im.Partitions() {
				uuid := p.UUID
				if test.kind == diskimage.MBR {
					if !strings.HasSuffix(uuid, fmt.Sprintf("-%02x", p.Number)) {
						t.Errorf("partition %d: PARTUUID %s", p.Number, uuid)
					}
					uuid = ""
				}
				fmt.Fprintln(&got, p.Number, p.Start, p.Size, strings.ToLower(strings.TrimLeft(p.Type, "0")), uuid, p.Label, p.Bootable)
				if p.Problem != "" {
					t.Errorf("partition %d: %s", p.Number, p.Problem)
				}
			}
			if diff := cmp.Diff(want.String(), got.String()); diff != "" {
				t.Errorf("sfdisk (-) sees otherwise (+):\n%s", diff)
			}
			if im.Table().Kind != test.kind {
				t.Errorf("kind %q", im.Table().Kind)
			}
		})
	}
}

// TestFileSystemsAsBlkidSees has the systems' own tools make file systems, and
// blkid say what they are.
func TestFileSystemsAsBlkidSees(t *testing.T) {
	const uuid = "0b8d10f2-4da1-4a31-a1b9-0d3c9b7f9a11"
	crafted := func(at int64, magic string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { patch(t, path, at, magic) }
	}
	run := func(args ...string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { testtool.Run(t, args[0], append(args[1:], path)...) }
	}
	for _, test := range []struct {
		summary string
		size    int64
		make    func(t *testing.T, path string)
		read    bool
	}{
		{"ext4", 16 * mib, run("mke2fs", "-q", "-t", "ext4", "-L", "a label", "-U", uuid), true},
		{"ext3", 16 * mib, run("mke2fs", "-q", "-t", "ext3", "-L", "three", "-U", uuid), true},
		{"ext2", 16 * mib, run("mke2fs", "-q", "-t", "ext2", "-L", "two", "-U", uuid), true},
		{"FAT12", 2 * mib, run("mkfs.fat", "-F", "12", "-n", "TWELVE", "-i", "1a2b3c4d"), true},
		{"FAT16", 16 * mib, run("mkfs.fat", "-F", "16", "-n", "SIXTEEN", "-i", "1a2b3c4d"), true},
		{"FAT32", 40 * mib, run("mkfs.fat", "-F", "32", "-n", "bootfs", "-i", "1a2b3c4d"), true},
		{"FAT32 without a name", 40 * mib, run("mkfs.fat", "-F", "32", "-i", "1a2b3c4d"), true},
		{"swap", 2 * mib, run("mkswap", "-L", "swapped", "-U", uuid), false},
		{"btrfs", 128 * mib, run("mkfs.btrfs", "-q", "-L", "butter", "-U", uuid), false},
		{"xfs", 320 * mib, run("mkfs.xfs", "-q", "-L", "extents", "-m", "uuid="+uuid), false},
		{"f2fs", 4 * mib, crafted(1024, "\x10\x20\xf5\xf2\x01\x00\x0e\x00"), false},
		{"romfs", mib, crafted(0, "-rom1fs-\x00\x00\x00\x60\x00\x00\x00\x00named"), false},
		{"cramfs", mib, crafted(0, "\x45\x3d\xcd\x28\x00\x10\x00\x00\x00\x00\x00\x00"), false},
		{"zeros", mib, func(*testing.T, string) {}, false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			path := blank(t, test.size)
			test.make(t, path)
			out, _ := exec.Command(testtool.Need(t, "blkid"), "-p", "-o", "export", path).Output()
			says := map[string]string{}
			for line := range strings.Lines(string(out)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				says[key] = strings.ReplaceAll(value, `\ `, " ")
			}
			im := open(t, path)
			if kind := im.Table().Kind; kind != diskimage.NoTable {
				t.Fatalf("a table of kind %s", kind)
			}
			p := im.Partitions()[0]
			if p.Number != 0 || p.Size != test.size || p.Problem != "" {
				t.Errorf("%+v", p)
			}
			want := fmt.Sprintf("%s %q %q", says["TYPE"], says["LABEL"], says["UUID"])
			if got := fmt.Sprintf("%s %q %q", p.FileSystem, p.FSLabel, p.FSUUID); got != want && !(test.summary == "f2fs" && p.FileSystem == "f2fs") {
				t.Errorf("%s, blkid says %s", got, want)
			}
			if test.summary != "zeros" && test.summary != "f2fs" && says["TYPE"] == "" {
				t.Error("blkid says nothing, so nothing was compared")
			}
			tree, err := im.Partition(0)
			if p.Readable != test.read || (err == nil) != test.read {
				t.Fatalf("readable %v, %v", p.Readable, err)
			}
			if test.read {
				if _, err := tree.ReadDir("/"); err != nil {
					t.Error(err)
				}
				if p.Free == 0 || p.Used+p.Free > test.size || len(p.Features) == 0 {
					t.Errorf("used %d, free %d, features %v", p.Used, p.Free, p.Features)
				}
			}
		})
	}
}

// TestTables are images whose tables are odd: each is opened, and says what is
// odd.
func TestTables(t *testing.T) {
	mbr := "label: dos\nlabel-id: 0x5e7a11d0\nstart=8192, size=8192, type=c\nsize=8192, type=83\n"
	gpt := "label: gpt\nlabel-id: 0B8D10F2-4DA1-4A31-A1B9-0D3C9B7F9A11\nsize=8192\nsize=8192\n"
	logical := "label: dos\nlabel-id: 0xdeadbeef\nstart=2048, size=90000, type=5\nNODE5 : start=4096, size=8192, type=83\nNODE6 : start=20480, size=8192, type=83\n"
	for _, test := range []struct {
		summary, script string
		mutate          func(t *testing.T, path string)
		kind            string
		partitions      int
		says            string // of the table or of a partition
	}{
		{"a truncated image", mbr, func(t *testing.T, p string) { truncate(t, p, 10*mib) }, diskimage.MBR, 2, "reaches past the end"},
		{"partitions that overlap", mbr, func(t *testing.T, p string) { patch(t, p, 446+16+8, "\x00\x20\x00\x00") }, diskimage.MBR, 2, "overlaps partition 1"},
		{"an active flag that is none", mbr, func(t *testing.T, p string) { patch(t, p, 446, "\x17") }, diskimage.NoTable, 1, ""},
		{"no signature", mbr, func(t *testing.T, p string) { patch(t, p, 510, "\x00\x00") }, diskimage.NoTable, 1, ""},
		{"logical partitions in a circle", logical, func(t *testing.T, p string) {
			patch(t, p, 18432*512+446+16+4, "\x05\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00")
		}, diskimage.MBR, 3, "in circles"},
		{"logical partitions that lead away", logical, func(t *testing.T, p string) { patch(t, p, 2048*512+446+16+8, "\xff\xff\xff\x00") }, diskimage.MBR, 2, "leads out of the image"},
		{"logical partitions without a table", logical, func(t *testing.T, p string) { patch(t, p, 2048*512+510, "\x00\x00") }, diskimage.MBR, 1, "no table at sector"},
		{"GPT whose header is damaged", gpt, func(t *testing.T, p string) { patch(t, p, 512+60, "\xff") }, diskimage.GPT, 2, "its copy from the image's end"},
		{"GPT without its header", gpt, func(t *testing.T, p string) { patch(t, p, 512, strings.Repeat("\x00", 512)) }, diskimage.GPT, 2, "its copy from the image's end"},
		{"GPT that is cut off and damaged", gpt, func(t *testing.T, p string) { patch(t, p, 512+60, "\xff"); truncate(t, p, 12*mib) }, diskimage.GPT, 0, "is damaged"},
		{"GPT that claims many entries", gpt, func(t *testing.T, p string) { patch(t, p, 512+80, "\xff\xff\xff\xff") }, diskimage.GPT, 0, "claims 4294967295 entries"},
		{"GPT with large entries", gpt, func(t *testing.T, p string) { patch(t, p, 512+84, "\x00\x02") }, diskimage.GPT, 0, "entries of 512 bytes"},
		{"GPT without a protective MBR", gpt, func(t *testing.T, p string) { patch(t, p, 446, strings.Repeat("\x00", 64)) }, diskimage.GPT, 2, "no protective MBR"},
		{"GPT, truncated", gpt, func(t *testing.T, p string) { truncate(t, p, 6*mib) }, diskimage.GPT, 2, "reaches past the end"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			path := blank(t, 64*mib)
			sfdisk(t, path, test.script)
			test.mutate(t, path)
			im := open(t, path)
			if im.Table().Kind != test.kind || len(im.Partitions()) != test.partitions {
				t.Errorf("table %+v, partitions %+v", im.Table(), im.Partitions())
			}
			text := im.Table().Problem
			for _, p := range im.Partitions() {
				text += "\n" + p.Problem
			}
			if !strings.Contains(text, test.says) || test.says == "" && strings.TrimSpace(text) != "" {
				t.Errorf("it says %q, want %q", text, test.says)
			}
			if _, err := im.Tree(); err == nil {
				t.Error("there is a tree")
			}
		})
	}
}

func truncate(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// TestWhatCannotBeRead is reported, and the rest can be read.
func TestWhatCannotBeRead(t *testing.T) {
	for _, test := range []struct {
		summary string
		image   string
		readble bool
		says    string
	}{
		{"a feature of the future", imagetest.Bookworm(t, imagetest.WithIncompatible(1<<30)), false, "FEATURE_I30"},
		{"a dirty journal", imagetest.Bookworm(t, imagetest.WithDirtyJournal()), true, "journal must be replayed"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			im := open(t, test.image)
			p := im.Partitions()[1]
			if p.FileSystem != "ext4" || p.Readable != test.readble || !strings.Contains(p.Problem, test.says) {
				t.Errorf("%+v", p)
			}
			tree, err := im.Tree()
			if test.readble {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tree.ReadDir("/etc"); err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("there is a tree, or no reason why not: %v", err)
			}
			boot, err := im.Partition(1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := boot.Lstat("/config.txt"); err != nil {
				t.Error(err)
			}
			if _, err := im.Partition(9); err == nil {
				t.Error("there is a partition 9")
			}
		})
	}
}

// TestAnUncleanFAT32 is read, and said to be one.
func TestAnUncleanFAT32(t *testing.T) {
	path := imagetest.Bookworm(t)
	patch(t, path, imagetest.BootStart+65, "\x01") // as the kernel marks one that is in use
	im := open(t, path)
	p := im.Partitions()[0]
	if !p.Readable || !strings.Contains(p.Problem, "not unmounted") || p.Free == 0 {
		t.Errorf("%+v", p)
	}
	if _, err := assembled(t, im).Lstat("/boot/firmware/cmdline.txt"); err != nil {
		t.Error(err)
	}
}

// TestBoot finds the boot partition's place.
func TestBoot(t *testing.T) {
	fstab := func(line string) imagetest.Option {
		return imagetest.WithFile("/etc/fstab", "proc /proc proc defaults 0 0\n"+line+"\nPARTUUID=5e7a11d0-02 / ext4 defaults 0 1\n", 0o644, 0, 0)
	}
	dir := func(path string) imagetest.Option { return imagetest.WithDir(path, 0o755, 0, 0) }
	for _, test := range []struct {
		summary string
		options []imagetest.Option
		want    string
	}{
		{"as it comes", nil, "/boot/firmware"},
		{"by PARTUUID, at /boot", []imagetest.Option{fstab("PARTUUID=5e7a11d0-01 /boot vfat defaults 0 2")}, "/boot"},
		{"by label", []imagetest.Option{dir("/efi"), fstab("LABEL=bootfs /efi vfat defaults 0 2")}, "/efi"},
		{"by UUID, in a folder with a blank", []imagetest.Option{dir("/b"), imagetest.WithSymlink("b", "/c"), fstab(`UUID="5E7A-B007" /\143 vfat defaults 0 2`)}, "/b"},
		{"by its device", []imagetest.Option{dir("/sd"), fstab("/dev/mmcblk0p1 /sd vfat defaults 0 2")}, "/sd"},
		{"by a link to its device", []imagetest.Option{dir("/sd"), fstab("/dev/disk/by-partuuid/5e7a11d0-01 /sd vfat defaults 0 2")}, "/sd"},
		{"by another image's name", []imagetest.Option{fstab("PARTUUID=00000000-01 /boot vfat defaults 0 2")}, "/boot/firmware"},
		{"at a folder that is not there", []imagetest.Option{fstab("PARTUUID=5e7a11d0-01 /not/there vfat defaults 0 2")}, "/boot/firmware"},
		{"without fstab, nor /boot/firmware", []imagetest.Option{imagetest.WithoutFile("/etc/fstab"), imagetest.WithoutFile("/boot/firmware")}, "/boot"},
		{"over the root", []imagetest.Option{fstab("PARTUUID=5e7a11d0-01 / vfat defaults 0 2")}, "/boot/firmware"},
		{"a partition that is no boot partition", []imagetest.Option{dir("/data"), fstab("PARTUUID=5e7a11d0-01 /data vfat defaults 0 2"),
			imagetest.WithoutBootFile("cmdline.txt"), imagetest.WithoutBootFile("config.txt"), imagetest.WithoutBootFile("bootcode.bin"),
			imagetest.WithoutBootFile("start.elf"), imagetest.WithoutBootFile("start4.elf")}, ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			im := open(t, imagetest.Bookworm(t, test.options...))
			tree := assembled(t, im)
			if got := im.BootPath(); got != test.want {
				t.Errorf("the boot partition is at %q, want %q (mounts %v)", got, test.want, im.Mounts())
			}
			if test.want == "" {
				return
			}
			n, err := tree.Lstat(test.want + "/config.txt")
			if err != nil || n.Partition != 1 {
				t.Errorf("%+v, %v", n, err)
			}
		})
	}
}

// TestRoots finds the system among several file systems.
func TestRoots(t *testing.T) {
	system := func(name string) string {
		path := filepath.Join(t.TempDir(), name)
		ext4test.MakeAt(t, path, ext4test.Named(t, "bookworm-4k"), 8*mib)
		file := filepath.Join(t.TempDir(), "release")
		if err := os.WriteFile(file, []byte("ID="+name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		ext4test.Debugfs(t, path, true, "mkdir /etc")
		ext4test.Debugfs(t, path, true, "write "+file+" /etc/os-release")
		return path
	}
	boot := filepath.Join(t.TempDir(), "boot")
	if err := os.WriteFile(boot, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	truncate(t, boot, 4*mib)
	testtool.Run(t, "mkfs.fat", boot)
	disk := func(cmdline string) *diskimage.Image {
		path := blank(t, 64*mib)
		sfdisk(t, path, "label: dos\nlabel-id: 0x5e7a11d0\nstart=8192, size=8192, type=c\nstart=16384, size=16384, type=83\nstart=32768, size=16384, type=83\n")
		insert(t, path, boot, 8192*512)
		insert(t, path, system("first"), 16384*512)
		insert(t, path, system("second"), 32768*512)
		file := filepath.Join(t.TempDir(), "cmdline.txt")
		if err := os.WriteFile(file, []byte(cmdline), 0o600); err != nil {
			t.Fatal(err)
		}
		testtool.Run(t, "mcopy", "-i", path+"@@4M", file, "::/cmdline.txt")
		return open(t, path)
	}
	for cmdline, want := range map[string]string{
		"root=PARTUUID=5e7a11d0-03 rootwait\n": "second", "root=/dev/mmcblk0p2": "first", "root=/dev/nfs": "first",
	} {
		if got := disk(cmdline).Release().ID; got != want {
			t.Errorf("with %q the system is %q, want %q", cmdline, got, want)
		}
	}
	bare := open(t, system("bare"))
	if r := bare.Release(); r.ID != "bare" || bare.BootPath() != "" {
		t.Errorf("a bare file system: %+v, boot at %q", r, bare.BootPath())
	}
	if _, err := assembled(t, open(t, boot)).ReadDir("/"); err != nil {
		t.Errorf("a bare FAT: %v", err)
	}
}

// TestReleases reads what each release's images call themselves.
func TestReleases(t *testing.T) {
	for _, test := range []struct {
		image string
		want  diskimage.Release
	}{
		{imagetest.Release(t, "bullseye"), diskimage.Release{ID: "raspbian", Codename: "bullseye", Name: "Raspbian GNU/Linux 11 (bullseye)", Version: "11", Architecture: "armhf"}},
		{imagetest.Release(t, "bookworm"), diskimage.Release{ID: "raspbian", Codename: "bookworm", Name: "Raspbian GNU/Linux 12 (bookworm)", Version: "12", Architecture: "armhf"}},
		{imagetest.Release(t, "trixie", imagetest.WithArchitecture("arm64")), diskimage.Release{ID: "debian", Codename: "trixie", Name: "Debian GNU/Linux 13 (trixie)", Version: "13", Architecture: "arm64"}},
		{imagetest.Bookworm(t, imagetest.WithOSRelease("# a comment\nID='alpine'\nVERSION_ID=3.20\nPRETTY_NAME=\"Alpine \\\"L\\\" v3.20\"\n"), imagetest.WithoutFile("/var/lib/dpkg/status"),
			imagetest.WithFile("/etc/apk/arch", "armhf\n", 0o644, 0, 0)), diskimage.Release{ID: "alpine", Name: `Alpine "L" v3.20`, Version: "3.20", Architecture: "armhf"}},
	} {
		im := open(t, test.image)
		if diff := cmp.Diff(test.want, im.Release()); diff != "" {
			t.Errorf("want (-), got (+):\n%s", diff)
		}
	}
}

// TestPaths follows links within the image, and never out of it.
func TestPaths(t *testing.T) {
	link := imagetest.WithSymlink
	im := open(t, imagetest.Bookworm(t,
		imagetest.WithFile("/srv/deep/file", "content", 0o640, 3, 4),
		link("/srv", "/abs"), link("../../../../../srv", "/srv/deep/up"), link("loop2", "/loop1"), link("loop1", "/loop2"),
		link("self", "/self"), link("/etc/hostname", "/host"), link("nowhere", "/dangling"), link("/boot/firmware/config.txt", "/config"),
		link("abs/deep", "/twice"), link("/srv/deep/..", "/dots"), link("firmware/overlays/..", "/boot/odd"),
	))
	tree := assembled(t, im)
	for _, test := range []struct {
		op, path string
		want     string // the node's path, "" for an error
		err      error
	}{
		{"lstat", "/srv/deep/file", "/srv/deep/file", nil},
		{"lstat", "srv//deep/./file", "/srv/deep/file", nil},
		{"lstat", "/", "/", nil},
		{"lstat", "", "/", nil},
		{"lstat", "/..", "/", nil},
		{"lstat", "/../../etc/hostname", "/etc/hostname", nil},
		{"lstat", "/abs", "/abs", nil},
		{"lstat", "/abs/", "/srv", nil},
		{"lstat", "/abs/.", "/srv", nil},
		{"lstat", "/abs/deep/file", "/srv/deep/file", nil},
		{"lstat", "/abs/..", "/", nil},
		{"lstat", "/srv/deep/up/deep/file", "/srv/deep/file", nil},
		{"lstat", "/twice/file", "/srv/deep/file", nil},
		{"lstat", "/twice/..", "/srv", nil},
		{"lstat", "/dots/deep", "/srv/deep", nil},
		{"lstat", "/srv/deep/file/..", "", diskimage.ErrNotDir},
		{"lstat", "/srv/deep/file/x", "", diskimage.ErrNotDir},
		{"lstat", "/nope/x", "", os.ErrNotExist},
		{"lstat", "/loop1", "/loop1", nil},
		{"lstat", "/loop1/x", "", diskimage.ErrLoop},
		{"lstat", "/self/x", "", diskimage.ErrLoop},
		{"lstat", "/dangling", "/dangling", nil},
		{"lstat", "/a\x00b", "", os.ErrInvalid},
		{"lstat", "/boot/firmware", "/boot/firmware", nil},
		{"lstat", "/boot/firmware/CONFIG.TXT", "/boot/firmware/config.txt", nil},
		{"lstat", "/boot/firmware/..", "/boot", nil},
		{"lstat", "/boot/odd/config.txt", "/boot/firmware/config.txt", nil},
		{"stat", "/abs", "/srv", nil},
		{"stat", "/host", "/etc/hostname", nil},
		{"stat", "/config", "/boot/firmware/config.txt", nil},
		// A link to a file of its own name elsewhere is no news of its folder.
		{"stat", "/etc/os-release", "/usr/lib/os-release", nil},
		{"open", "/etc/os-release", "", nil},
		{"lstat", "/etc/fstab", "/etc/fstab", nil},
		{"stat", "/loop1", "", diskimage.ErrLoop},
		{"stat", "/dangling", "", os.ErrNotExist},
		{"open", "/host", "", nil},
		{"open", "/srv", "", diskimage.ErrIsDir},
		{"open", "/boot/firmware/overlays", "", diskimage.ErrIsDir},
		{"open", "/dangling", "", os.ErrNotExist},
		{"open", "/loop1", "", diskimage.ErrLoop},
		{"readdir", "/abs", "", nil},
		{"readdir", "/host", "", diskimage.ErrNotDir},
		{"readdir", "/boot/firmware/config.txt", "", diskimage.ErrNotDir},
	} {
		// Twice, since the first time may be remembered.
		for range 2 {
			var n diskimage.Node
			var err error
			switch test.op {
			case "lstat":
				n, err = tree.Lstat(test.path)
			case "stat":
				n, err = diskimage.Stat(tree, test.path)
			case "open":
				var f io.ReadCloser
				if f, err = tree.Open(test.path); err == nil {
					f.Close()
				}
			case "readdir":
				_, err = tree.ReadDir(test.path)
			}
			if n.Path != test.want || !matches(err, test.err) {
				t.Errorf("%s %q: %q, %v; want %q, %v", test.op, test.path, n.Path, err, test.want, test.err)
			}
		}
	}
}

func matches(err, want error) bool {
	if want == nil {
		return err == nil
	}
	return errors.Is(err, want) || err != nil && strings.Contains(err.Error(), want.Error())
}

// TestWalk visits all, in order, and heeds SkipDir and SkipAll.
func TestWalk(t *testing.T) {
	tree := assembled(t, open(t, imagetest.Bookworm(t)))
	var all []string
	collect := func(at string, skip func(diskimage.Node) error) (paths []string) {
		if err := tree.Walk(at, func(n diskimage.Node) error {
			if n.Problem != "" {
				t.Errorf("%s: %s", n.Path, n.Problem)
			}
			paths = append(paths, n.Path)
			return skip(n)
		}); err != nil {
			t.Fatal(err)
		}
		return paths
	}
	none := func(diskimage.Node) error { return nil }
	all = collect("/", none)
	byParts := slices.SortedFunc(slices.Values(all), func(a, b string) int {
		return slices.Compare(strings.Split(strings.Trim(a, "/"), "/"), strings.Split(strings.Trim(b, "/"), "/"))
	})
	if diff := cmp.Diff(byParts, all); diff != "" {
		t.Errorf("out of order:\n%s", diff)
	}
	if !slices.Contains(all, "/boot/firmware/cmdline.txt") || !slices.Contains(all, "/etc/hostname") {
		t.Errorf("incomplete: %v", all)
	}
	if got := collect("/boot/firmware", none); got[0] != "/boot/firmware" || len(got) < 3 {
		t.Errorf("the boot partition: %v", got)
	}
	skipped := collect("/", func(n diskimage.Node) error {
		if n.Path == "/etc" || n.Path == "/boot/firmware/cmdline.txt" {
			return fs.SkipDir
		}
		return nil
	})
	for _, p := range skipped {
		if strings.HasPrefix(p, "/etc/") || p == "/boot/firmware/config.txt" {
			t.Errorf("%s was not skipped", p)
		}
	}
	if !slices.Contains(skipped, "/home/pi") {
		t.Error("more was skipped")
	}
	if got := collect("/", func(diskimage.Node) error { return fs.SkipAll }); len(got) != 1 {
		t.Errorf("SkipAll: %v", got)
	}
}

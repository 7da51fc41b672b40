package imagetest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// cut copies a piece of a file into one of its own.
func cut(t *testing.T, image string, offset, size int64) string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size)
	if _, err := f.ReadAt(data, offset); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "piece")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func debugfs(t *testing.T, root, command string) string {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "debugfs"), "-R", command, root).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestBookwormIsClean(t *testing.T) {
	image := imagetest.Bookworm(t)
	table := testtool.Run(t, "sfdisk", "-d", image)
	for _, want := range []string{
		"label: dos", "label-id: 0x5e7a11d0",
		"start=        8192, size=       81920, type=c",
		"start=       90112, size=      114688, type=83",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
	boot := cut(t, image, imagetest.BootStart, imagetest.BootSize)
	testtool.Run(t, "fsck.vfat", "-n", boot)
	if text := testtool.Run(t, "mtype", "-i", boot, "::/cmdline.txt"); text != "console=serial0,115200 console=tty1 root=PARTUUID=5e7a11d0-02 "+
		"rootfstype=ext4 fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n" {
		t.Errorf("cmdline.txt is %q", text)
	}
	root := cut(t, image, imagetest.RootStart, imagetest.RootSize)
	testtool.Run(t, "e2fsck", "-fn", root)
	for _, test := range []struct{ command, want string }{
		{"features", "has_journal ext_attr resize_inode dir_index filetype extent flex_bg sparse_super large_file dir_nlink extra_isize metadata_csum"},
		{"stat /home/pi/.bashrc", "User:  1000   Group:  1000"},
		{"stat /etc/shadow", "Mode:  0640"},
		{"stat /etc/shadow", "Group:    42"},
		{"stat /etc/sudoers.d/010_pi-nopasswd", "Mode:  0440"},
		{"stat /usr/lib/raspberrypi-sys-mods/firstboot", "Mode:  0755"},
		{"stat /tmp", "Mode:  01777"},
		{"stat /bin", `Fast link dest: "usr/bin"`},
		{"cat /etc/fstab", "PARTUUID=5e7a11d0-02  /               ext4"},
		{"cat /usr/lib/os-release", "VERSION_CODENAME=bookworm"},
		{"cat /etc/passwd", "\npi:x:1000:1000:"},
		{"cat /etc/machine-id", "uninitialized\n"},
	} {
		if got := debugfs(t, root, test.command); !strings.Contains(got, test.want) {
			t.Errorf("debugfs %q lacks %q:\n%s", test.command, test.want, got)
		}
	}
}

// The same options make the same bytes, in another process too: the digest
// does not depend on names, times or who runs it.
func TestBookwormIsDeterministic(t *testing.T) {
	if os.Getenv("IMAGETEST_DIGEST") != "" {
		t.Logf("digest=%s", digest(t, imagetest.Bookworm(t)))
		return
	}
	first := digest(t, imagetest.Bookworm(t))
	cmd := exec.Command(os.Args[0], "-test.run=^TestBookwormIsDeterministic$", "-test.v")
	cmd.Env = append(os.Environ(), "IMAGETEST_DIGEST=1", "TMPDIR="+t.TempDir(), "TZ=Asia/Tokyo")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, second, _ := strings.Cut(string(out), "digest=")
	second, _, _ = strings.Cut(second, "\n")
	if second != first {
		t.Errorf("made again, the image is %s, not %s", second, first)
	}
}

func TestEachImageIsTheTestsOwn(t *testing.T) {
	first, second := imagetest.Bookworm(t), imagetest.Bookworm(t)
	before := digest(t, second)
	if err := os.Truncate(first, 0); err != nil {
		t.Fatal(err)
	}
	if digest(t, second) != before {
		t.Error("a change of one image shows in another")
	}
}

func digest(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func TestOptions(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		image := imagetest.Bookworm(t,
			imagetest.WithFile("/srv/a/b/secret", "content", os.ModeSetuid|0o711, 7, 8),
			imagetest.WithDir("/srv/own", 0o750, 1000, 1000),
			imagetest.WithSymlink("../srv", "/opt/link"),
			imagetest.WithoutFile("/etc/hostname"),
			imagetest.WithOSRelease("ID=other\n"),
			imagetest.WithBootFile("ssh", ""),
			imagetest.WithBootFile("own/deep/file.txt", "boot content"),
			imagetest.WithoutBootFile("config.txt"),
			imagetest.WithRootSize(96<<20))
		boot := cut(t, image, imagetest.BootStart, imagetest.BootSize)
		testtool.Run(t, "fsck.vfat", "-n", boot)
		if text := testtool.Run(t, "mtype", "-i", boot, "::/own/deep/file.txt"); text != "boot content" {
			t.Errorf("own/deep/file.txt is %q", text)
		}
		listing := testtool.Run(t, "mdir", "-b", "-i", boot, "::/")
		if !strings.Contains(listing, "::/ssh") || strings.Contains(listing, "config.txt") {
			t.Errorf("the boot partition holds\n%s", listing)
		}
		root := cut(t, image, imagetest.RootStart, 96<<20)
		testtool.Run(t, "e2fsck", "-fn", root)
		for _, test := range []struct{ command, want string }{
			{"stat /srv/a/b/secret", "Mode:  04711"},
			{"stat /srv/a/b/secret", "User:     7   Group:     8"},
			{"cat /srv/a/b/secret", "content"},
			{"stat /srv/own", "Mode:  0750"},
			{"stat /opt/link", `"../srv"`},
			{"cat /usr/lib/os-release", "ID=other"},
		} {
			if got := debugfs(t, root, test.command); !strings.Contains(got, test.want) {
				t.Errorf("debugfs %q lacks %q:\n%s", test.command, test.want, got)
			}
		}
		if got := debugfs(t, root, "ls /etc"); strings.Contains(got, "hostname") {
			t.Error("/etc/hostname is there")
		}
	})
	t.Run("GPT", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithGPT())
		if out := testtool.Run(t, "sfdisk", "--verify", image); !strings.Contains(out, "No errors detected") {
			t.Error(out)
		}
		if out := testtool.Run(t, "sfdisk", "-d", image); !strings.Contains(out, "label: gpt") {
			t.Error(out)
		}
	})
	t.Run("no root", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithoutRoot())
		if out := testtool.Run(t, "sfdisk", "-d", image); strings.Contains(out, "type=83") || !strings.Contains(out, "type=c") {
			t.Error(out)
		}
	})
	t.Run("dirty journal", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithDirtyJournal())
		root := cut(t, image, imagetest.RootStart, imagetest.RootSize)
		if out := debugfs(t, root, "features"); !strings.Contains(out, "needs_recovery") {
			t.Error(out)
		}
	})
	t.Run("unknown feature", func(t *testing.T) {
		image := imagetest.Bookworm(t, imagetest.WithIncompatible(1<<30))
		superblock := cut(t, image, imagetest.RootStart+1024, 1024)
		data, err := os.ReadFile(superblock)
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint32(data[0x60:]); got != 1<<30|0x242 {
			t.Errorf("s_feature_incompat is %#x", got)
		}
		out, err := exec.Command(testtool.Need(t, "e2fsck"), "-fn", cut(t, image, imagetest.RootStart, imagetest.RootSize)).CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("unsupported feature")) {
			t.Errorf("e2fsck says %v\n%s", err, out)
		}
	})
}

func TestXZ(t *testing.T) {
	image := imagetest.Bookworm(t)
	packed := imagetest.XZ(t, image)
	list := testtool.Run(t, "xz", "--robot", "--list", packed)
	var blocks string
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); fields[0] == "file" {
			blocks = fields[2]
		}
	}
	if blocks != "13" { // 100 MiB by 8
		t.Errorf("%s blocks:\n%s", blocks, list)
	}
	back := image + ".back"
	if out, err := exec.Command("sh", "-c", `xz -dc "$0" >"$1"`, packed, back).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if digest(t, back) != digest(t, image) {
		t.Error("unpacked, it is another image")
	}
}

package drive_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"hatchery/imagebuilder/drive"
	"hatchery/internal/testtool"
)

// TestLoops: what lies on loop devices is seen on what they show, and the other
// way round.
func TestLoops(t *testing.T) {
	root := tree(t, "loops")
	all, err := drive.LinuxList(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 8 {
		path := fmt.Sprintf("/dev/loop%d", n)
		d, err := drive.LinuxNumbered(root, path, fmt.Sprintf("7:%d", n))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	golden(t, filepath.Join("testdata", "linux", "loops.want"), describe(all))
	var backing []string
	for _, d := range all[len(all)-8:] {
		backing = append(backing, d.Backing)
	}
	want := "/dev/sda /dev/sdb1 /dev/sdc /home/ann/card.img /home/ann/link.img /dev/sdd1 /dev/loop6 /home/ann/card.img"
	if got := strings.Join(backing, " "); got != want {
		t.Errorf("backing\ngot  %s\nwant %s", got, want)
	}
}

// TestUnseenBacking: a loop device whose file cannot be seen is taken for one of
// a file of the same name and size.
func TestUnseenBacking(t *testing.T) {
	card := file(t, t.TempDir(), 8192)
	for _, c := range []struct {
		summary, backing, size, offset, limit string
		users                                 int
	}{
		{"the same", "/elsewhere/card.img", "16", "0", "0", 1},
		{"another name", "/elsewhere/other.img", "16", "0", "0", 0},
		{"another size", "/elsewhere/card.img", "24", "0", "0", 0},
		{"from an offset", "/elsewhere/card.img", "8", "4096", "0", 1},
		{"a part", "/elsewhere/card.img", "1", "4096", "512", 1},
	} {
		root := plant(t, expand(fmt.Sprintf(`
disk loop0 7:0 virtual/block %s 0 0
sys/devices/virtual/block/loop0/loop/backing_file = %s
sys/devices/virtual/block/loop0/loop/offset = %s
sys/devices/virtual/block/loop0/loop/sizelimit = %s
proc/self/mountinfo : 26 1 0:5 / / rw shared:1 - tmpfs none rw
`, c.size, c.backing, c.offset, c.limit)))
		d, err := drive.LinuxFind(t.Context(), root, card)
		if err != nil || len(d.Users) != c.users {
			t.Errorf("%s: %v, %v", c.summary, d.Users, err)
		}
	}
}

// attached shows a file or device as a loop device.
func attached(t testing.TB, path string) (device string) {
	t.Helper()
	device, _ = attachedUntil(t, path)
	return device
}

// attachedUntil is attached, and detaches it before the test's end. It does so once:
// somebody else's file may soon be attached by the same name.
func attachedUntil(t testing.TB, path string) (device string, detach func()) {
	t.Helper()
	testtool.NeedRoot(t)
	losetup := testtool.Need(t, "losetup")
	out, err := exec.Command(losetup, "--find", "--show", path).CombinedOutput()
	if err != nil {
		testtool.Missing(t, "a loop device ("+strings.TrimSpace(string(out))+")")
	}
	device = strings.TrimSpace(string(out))
	detach = sync.OnceFunc(func() {
		if out, err := exec.Command(losetup, "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	})
	t.Cleanup(detach)
	return device, detach
}

func refused(t *testing.T, summary string, d drive.Drive, want string) {
	t.Helper()
	_, err := drive.Open(t.Context(), d, drive.OpenOptions{})
	var no *drive.RefusedError
	if !errors.As(err, &no) || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v", summary, err)
	}
}

// TestLoopOverLoop: neither the upper nor the lower one is written to while the
// other one is mounted, nor one that shows the same file; and with force not
// while the other one is there.
func TestLoopOverLoop(t *testing.T) {
	card := file(t, t.TempDir(), 16<<20)
	lower := attached(t, card)
	testtool.Run(t, "mkfs.ext4", "-q", lower)
	over, letOver := attachedUntil(t, lower)
	beside, letBeside := attachedUntil(t, card)
	for _, c := range []struct {
		summary, other string
		detach         func()
	}{
		{"a device over it", over, letOver},
		{"a device over the same file", beside, letBeside},
	} {
		place := t.TempDir()
		mount(t, c.other, place)
		refused(t, c.summary, find(t, lower), "it is mounted at "+place)
		testtool.Run(t, "umount", place)
		mount(t, lower, place)
		refused(t, c.summary+", the other way round", find(t, c.other), "it is mounted at "+place)
		_, err := drive.Open(t.Context(), find(t, c.other), drive.OpenOptions{Force: true})
		if !isBusy(err) || !strings.Contains(err.Error(), "losetup -d") {
			t.Errorf("%s, with force: %v", c.summary, err)
		}
		unix.Unmount(place, 0)
		c.detach()
	}
	open(t, find(t, lower), false)
}

// TestHiddenBacking: a loop device's file is known by what the device says of
// it, whatever lies at its path in this mount namespace.
func TestHiddenBacking(t *testing.T) {
	testtool.NeedRoot(t)
	dir, hidden := t.TempDir(), t.TempDir()
	card := file(t, dir, 1<<20)
	if err := os.Link(card, filepath.Join(hidden, "other.img")); err != nil {
		t.Fatal(err)
	}
	device := attached(t, filepath.Join(hidden, "other.img"))
	if err := unix.Mount("tmpfs", hidden, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(hidden, unix.MNT_DETACH) })
	refused(t, "nothing at its path", find(t, card), "attached as "+device)
	if err := os.WriteFile(filepath.Join(hidden, "other.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, "another file at its path", find(t, card), "attached as "+device)
}

// TestSwapFile: a file that is swap is refused, by whatever name.
func TestSwapFile(t *testing.T) {
	card := file(t, t.TempDir(), 8192)
	link := filepath.Join(filepath.Dir(card), "other")
	if err := os.Link(card, link); err != nil {
		t.Fatal(err)
	}
	root := plant(t, `
proc/self/mountinfo : 26 1 0:5 / / rw shared:1 - tmpfs none rw
sys/block/README = no disk
proc/swaps : /swap\040file                           file		8	0		-2
`)
	if err := os.Symlink(link, filepath.Join(root, "swap file")); err != nil {
		t.Fatal(err)
	}
	d, err := drive.LinuxFind(t.Context(), root, card)
	if err != nil || d.Refusal(true) == nil || !strings.Contains(d.Refusal(true).Error(), "it is in use: swap in "+card) {
		t.Errorf("got %+v, %v", d, err)
	}
}

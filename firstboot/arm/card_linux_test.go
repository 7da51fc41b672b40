package arm_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/firstboot/arm"
	"hatchery/internal/reimage"
	"hatchery/internal/testtool"
)

// TestACard arms a card whose partitions are the kernel's own, and mounted. Its boot partition
// is an ext2: not every kernel that tests run on has FAT.
func TestACard(t *testing.T) {
	testtool.NeedRoot(t)
	for _, tool := range []string{"sfdisk", "partx", "losetup", "mke2fs", "e2fsck", "mount", "umount"} {
		testtool.Need(t, tool)
	}
	// Mounts of its own: else other tests would hold on to these.
	runtime.LockOSThread() // the thread ends with the test
	succeed(t, unix.Unshare(unix.CLONE_NEWNS))
	succeed(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	n := newNode(t)
	files := os.DirFS(n.place.Boot)
	dir := t.TempDir()
	file, root, boot := filepath.Join(dir, "card"), filepath.Join(dir, "root"), filepath.Join(dir, "firmware")
	for _, d := range []string{root, boot} {
		succeed(t, os.Mkdir(d, 0o755))
	}
	succeed(t, os.WriteFile(file, nil, 0o600))
	succeed(t, os.Truncate(file, 64<<20))
	cmd := exec.Command(testtool.Need(t, "sfdisk"), "--quiet", file)
	cmd.Stdin = strings.NewReader("label: dos\nstart=8192, size=81920, type=c\nstart=90112, type=83\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	disk := strings.TrimSpace(testtool.Run(t, "losetup", "--find", "--show", file))
	defer func() {
		for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // somebody may have it open
			_, err := exec.Command(testtool.Need(t, "partx"), "--delete", disk).CombinedOutput()
			if err == nil || time.Now().After(end) {
				break
			}
		}
		testtool.Run(t, "losetup", "--detach", disk)
	}()
	testtool.Run(t, "partx", "--update", disk)
	testtool.Run(t, "mke2fs", "-q", "-t", "ext2", disk+"p1")
	testtool.Run(t, "mke2fs", "-q", "-t", "ext4", disk+"p2")
	find := func() (arm.Place, error) { return arm.FindAt(root, []string{boot, "/nowhere"}, unix.EXT2_SUPER_MAGIC) }

	var unprepared *arm.NotPreparedError
	testtool.Run(t, "mount", disk+"p2", root)
	defer testtool.Run(t, "umount", root)
	if _, err := find(); !errors.As(err, &unprepared) {
		t.Errorf("without its boot partition: %v", err)
	}
	testtool.Run(t, "mount", disk+"p1", boot)
	mounted := true
	unmount := func() {
		if mounted {
			mounted = false
			testtool.Run(t, "umount", boot)
		}
	}
	defer unmount()
	place, err := find()
	if err != nil || place != (arm.Place{Disk: disk, Boot: boot}) {
		t.Fatalf("%+v, %v", place, err)
	}
	if _, err := arm.FindAt("/proc", []string{boot}, unix.EXT2_SUPER_MAGIC); !errors.Is(err, arm.ErrNoCard) {
		t.Errorf("a root on no card: %v", err)
	}
	if _, err := arm.FindAt(root, []string{boot}, unix.MSDOS_SUPER_MAGIC); !errors.As(err, &unprepared) || !strings.Contains(err.Error(), "no FAT") {
		t.Errorf("a boot partition that is no FAT: %v", err)
	}
	testtool.Run(t, "mount", "-o", "remount,ro", boot)
	if _, err := find(); err == nil || !strings.Contains(err.Error(), "remount,rw") {
		t.Errorf("a boot partition that is read-only: %v", err)
	}
	testtool.Run(t, "mount", "-o", "remount,rw", boot)

	succeed(t, os.CopyFS(boot, files))
	n.place = place
	before := n.tree(t)
	succeed(t, n.armer().Arm("op"))
	// As the next boot finds it.
	unmount()
	testtool.Run(t, "e2fsck", "-fn", disk+"p1")
	testtool.Run(t, "mount", disk+"p1", boot)
	mounted = true
	if n.read(t, "config.txt") != config2 || n.read(t, "cmdline.txt") != cmdline2 || n.read(t, reimage.SavedConfig) != config || n.order(t) == nil {
		t.Errorf("armed it is\n%s", n.tree(t))
	}
	if armed, err := n.armer().Disarm(); err != nil || !armed {
		t.Errorf("%v, %v", armed, err)
	}
	if after := n.tree(t); after != before || n.order(t) != nil {
		t.Errorf("taken back it is\n%s\nwas:\n%s", after, before)
	}
	unmount()
	testtool.Run(t, "e2fsck", "-fn", disk+"p1")
}

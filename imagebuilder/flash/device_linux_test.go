package flash_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"hatchery/internal/testtool"
)

// blockDevice is a device of the system's, past its cache.
type blockDevice struct {
	*os.File
	size int64
}

func (d *blockDevice) Size() int64    { return d.size }
func (d *blockDevice) BlockSize() int { return 512 }
func (d *blockDevice) Discard(off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span))); errno != 0 {
		return errno
	}
	return nil
}

// loopDevice gives a loop device over a file of the size, which goes past the
// system's cache. For root only.
func loopDevice(t testing.TB, size int64) *blockDevice {
	t.Helper()
	testtool.NeedRoot(t)
	losetup := testtool.Need(t, "losetup")
	path := filepath.Join(t.TempDir(), "card")
	f, err := os.Create(path)
	succeed(t, err)
	succeed(t, unix.Fallocate(int(f.Fd()), 0, 0, size))
	succeed(t, f.Close())
	out, err := exec.Command(losetup, "--find", "--show", "--direct-io=on", path).CombinedOutput()
	if err != nil {
		testtool.Missing(t, "a loop device: "+strings.TrimSpace(string(out)))
	}
	name := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", name).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	d, err := os.OpenFile(name, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0)
	succeed(t, err)
	t.Cleanup(func() { d.Close() })
	return &blockDevice{d, size}
}

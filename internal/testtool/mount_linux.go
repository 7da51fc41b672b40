package testtool

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// Mount mounts an image's file system, size bytes from offset on (0: to the
// end), at dir with the kernel's options. The test is skipped (on CI: fails)
// where the kernel does not. What unmount gives back, the image's file has.
//
// A mount namespace that another test's process made meanwhile holds a copy of
// every mount, for as long as that process lives. So the file system is made
// read-only first, which writes its end, and each mount has a loop device of
// its own: `mount -o loop` would take the one that the copy still has, with
// what it was reading then.
func Mount(t testing.TB, image, dir string, offset, size int64, options ...string) (unmount func()) {
	t.Helper()
	NeedRoot(t)
	mount, umount := Need(t, "mount"), Need(t, "umount")
	losetup := Need(t, "losetup")
	args := []string{"--find", "--show", "--offset", fmt.Sprint(offset)}
	if size > 0 {
		args = append(args, "--sizelimit", fmt.Sprint(size))
	}
	out, err := exec.Command(losetup, append(args, image)...).CombinedOutput()
	if err != nil {
		Missing(t, fmt.Sprintf("a loop device (%v: %s)", err, strings.TrimSpace(string(out))))
	}
	device := strings.TrimSpace(string(out))
	detach := func() {
		if out, err := exec.Command(losetup, "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	}
	args = []string{device, dir}
	if len(options) > 0 {
		args = append([]string{"-o", strings.Join(options, ",")}, args...)
	}
	if out, err := exec.Command(mount, args...).CombinedOutput(); err != nil {
		detach()
		Missing(t, fmt.Sprintf("a kernel that mounts such images (%v: %s)", err, strings.TrimSpace(string(out))))
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		if out, err := exec.Command(mount, "-o", "remount,ro", dir).CombinedOutput(); err != nil {
			t.Errorf("remount: %v: %s", err, out)
		}
		if out, err := exec.Command(umount, dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
		detach()
	}
	t.Cleanup(unmount)
	return unmount
}

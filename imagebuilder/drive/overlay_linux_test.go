package drive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hatchery/imagebuilder/drive"
	"hatchery/internal/testtool"
)

// TestMediumOfLiveSystem: a machine runs from the disk on which the file lies
// that a loop device shows as its root.
func TestMediumOfLiveSystem(t *testing.T) {
	medium := t.TempDir()
	squashfs := file(t, medium, 8192)
	var stat unix.Stat_t
	if err := unix.Stat(squashfs, &stat); err != nil {
		t.Fatal(err)
	}
	number := fmt.Sprintf("%d:%d", unix.Major(uint64(stat.Dev)), unix.Minor(uint64(stat.Dev)))
	root := plant(t, expand(fmt.Sprintf(`
disk sda 8:1000 pci0000:00/usb1/1-1/block 31116288 1 0
part sda1 %s pci0000:00/usb1/1-1/block/sda 1 1000000
disk loop9 7:1009 virtual/block 16 0 0
sys/devices/virtual/block/loop9/loop/backing_file = /live/filesystem.squashfs
live/filesystem.squashfs -> %s
proc/self/mountinfo : 20 26 %[1]s / /mnt rw shared:1 - ext4 /dev/sda1 ro
proc/self/mountinfo : 21 26 7:1009 / /lower ro shared:2 - squashfs /dev/loop9 ro
proc/self/mountinfo : 26 1 0:923 / / rw shared:3 - overlay overlay rw,lowerdir=/lower
`, number, squashfs)))
	all, err := drive.LinuxList(t.Context(), root)
	if err != nil || len(all) != 1 || !all[0].System {
		t.Errorf("%v\n%s", err, describe(all))
	}
}

// TestHiddenMount: what lies over a mount is not unmounted in its place.
func TestHiddenMount(t *testing.T) {
	for _, c := range []struct{ summary, place, over string }{
		{"at its place", "a", "a"},
		{"at a folder above", "b/c", "b"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			device := attached(t, file(t, t.TempDir(), 16<<20))
			testtool.Run(t, "mkfs.ext4", "-q", device)
			dir := t.TempDir()
			place, lies := filepath.Join(dir, c.place), filepath.Join(dir, c.over)
			mount(t, device, place)
			if err := unix.Mount("theirs", lies, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			theirs := true
			t.Cleanup(func() {
				if theirs {
					unix.Unmount(lies, unix.MNT_DETACH)
				}
			})
			if err := os.MkdirAll(place, 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := drive.Open(t.Context(), find(t, device), drive.OpenOptions{Force: true})
			if !isBusy(err) || !strings.Contains(err.Error(), "the tmpfs of theirs at "+lies) {
				t.Errorf("got %v", err)
			}
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || !strings.Contains(string(mounts), " "+lies+" rw") || !strings.Contains(string(mounts), "tmpfs theirs") {
				t.Errorf("it was unmounted: %v", err)
			}
			if err := unix.Unmount(lies, 0); err != nil {
				t.Fatal(err)
			}
			theirs = false
			open(t, find(t, device), true)
		})
	}
}

func FuzzLayers(f *testing.F) {
	f.Add("26 1 0:23 / / rw - overlay o rw,lowerdir=/a\\134,b:/c\\134:d,upperdir=/u\\134\n")
	f.Add("1 2 0:23 / / rw - overlay o lowerdir+=/a\n2 1 0:24 / / rw - overlay o datadir+=\\\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, dir := range drive.Layers(text) {
			if !filepath.IsAbs(dir) {
				t.Errorf("%q is a layer of %q", dir, text)
			}
		}
	})
}

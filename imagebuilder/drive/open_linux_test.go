package drive_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/imagebuilder/drive"
	"hatchery/internal/testtool"
)

// file makes a file that stands for a card.
func file(t testing.TB, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "card.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// loop attaches a file of size bytes, with its partitions.
func loop(t testing.TB, size int64, options ...string) (device string) {
	t.Helper()
	testtool.NeedRoot(t)
	losetup := testtool.Need(t, "losetup")
	path := file(t, t.TempDir(), size)
	out, err := exec.Command(losetup, append(append([]string{"--find", "--show", "--partscan"}, options...), path)...).CombinedOutput()
	if err != nil {
		testtool.Missing(t, "a loop device ("+strings.TrimSpace(string(out))+")")
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

// partitioned is a loop device of 64 MiB with two partitions, of which the
// second one has an ext4.
func partitioned(t testing.TB) (device string) {
	t.Helper()
	device = loop(t, 64<<20)
	sfdisk := exec.Command(testtool.Need(t, "sfdisk"), device)
	sfdisk.Stdin = strings.NewReader("2048,32768\n34816,65536\n")
	if out, err := sfdisk.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	if _, err := os.Stat(device + "p2"); err != nil {
		// A kernel that does not know MBRs is told.
		testtool.Run(t, "partx", "--add", device)
	}
	testtool.Run(t, "mkfs.ext4", "-q", device+"p2")
	return device
}

func mount(t testing.TB, device, place string) {
	t.Helper()
	if err := os.MkdirAll(place, 0o755); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "mount", device, place)
	t.Cleanup(func() {
		unix.Unmount(place, unix.MNT_DETACH) // where the test has not
		os.Remove(place)
	})
}

func find(t testing.TB, path string) drive.Drive {
	t.Helper()
	d, err := drive.Find(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func open(t testing.TB, d drive.Drive, force bool) *drive.Handle {
	t.Helper()
	h, err := drive.Open(t.Context(), d, drive.OpenOptions{Force: force})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// exercise writes, reads back, discards, and looks at it past the handle.
func exercise(t *testing.T, h *drive.Handle, path string) {
	t.Helper()
	want := pattern(1<<20, 9)
	for _, off := range []int64{0, 4 << 20, h.Size() - int64(len(want))} {
		if n, err := h.WriteAt(want, off); n != len(want) || err != nil {
			t.Fatalf("write at %d: %d, %v", off, n, err)
		}
	}
	if err := h.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 4 << 20, h.Size() - int64(len(want))} {
		got := aligned(len(want))
		if n, err := h.ReadAt(got, off); n != len(want) || err != nil || !bytes.Equal(got, want) {
			t.Errorf("read at %d: %d, %v, equal %v", off, n, err, bytes.Equal(got, want))
		}
	}
	switch err := h.Discard(4<<20, 1<<20); {
	case errors.Is(err, errors.ErrUnsupported):
		t.Logf("discard: %v", err)
	case err != nil:
		t.Error(err)
	default:
		got := aligned(1 << 20)
		if _, err := h.ReadAt(got, 4<<20); err != nil || !bytes.Equal(got, make([]byte, 1<<20)) {
			t.Errorf("what was discarded is there: %v", err)
		}
		if _, err := h.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("what was not discarded is not there: %v", err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read past the handle: %v, equal %v", err, bytes.Equal(got, want))
	}
}

func TestOpenFile(t *testing.T) {
	for _, c := range []struct{ summary, dir string }{
		{"on a disk", ""}, {"in memory", "/dev/shm"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			dir := t.TempDir()
			if c.dir != "" {
				var err error
				if dir, err = os.MkdirTemp(c.dir, "hatchery-drive"); err != nil {
					testtool.Missing(t, c.dir)
				}
				t.Cleanup(func() { os.RemoveAll(dir) })
			}
			path := file(t, dir, 16<<20)
			h := open(t, find(t, path), false)
			if h.Size() != 16<<20 || h.BlockSize() < 512 || h.BlockSize() > 4096 {
				t.Errorf("%d bytes in blocks of %d", h.Size(), h.BlockSize())
			}
			if err := h.Rescan(); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("rescan: %v", err)
			}
			exercise(t, h, path)
		})
	}
}

// TestOneAtATime: two hatcheries do not write to the same.
func TestOneAtATime(t *testing.T) {
	d := find(t, file(t, t.TempDir(), 1<<20))
	h := open(t, d, false)
	_, err := drive.Open(t.Context(), d, drive.OpenOptions{Force: true})
	var busy *drive.BusyError
	if !errors.As(err, &busy) || !strings.Contains(err.Error(), "locked") {
		t.Errorf("a second one: %v", err)
	}
	h.Close()
	open(t, d, false)
}

// TestChanged: what was judged has to be what is opened.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	path := file(t, dir, 1<<20)
	for _, c := range []struct {
		summary string
		change  func(*drive.Drive)
		want    string
	}{
		{"another size", func(d *drive.Drive) { d.Size = 2 << 20 }, "its size was 2.1 MB (2097152 bytes), and is 1.0 MB (1048576 bytes)"},
		{"another serial", func(d *drive.Drive) { d.Serial = "X" }, "it was X, and is an unnamed one"},
		{"another model", func(d *drive.Drive) { d.Model = "Y" }, "it was Y, and is an unnamed one"},
		{"another file", func(d *drive.Drive) { d.Number = "1:1 inode 1" }, "its number was"},
		{"another card", func(d *drive.Drive) { d.Sequence = 7 }, "a card was taken out or put in since"},
		{"another kind", func(d *drive.Drive) { d.Kind = drive.Disk }, "it was a disk, and is a file"},
	} {
		d := find(t, path)
		c.change(&d)
		_, err := drive.Open(t.Context(), d, drive.OpenOptions{Force: true})
		var changed *drive.ChangedError
		if !errors.As(err, &changed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.summary, err)
		}
	}
	d := find(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var mistake *drive.InputError
	if _, err := drive.Open(t.Context(), d, drive.OpenOptions{}); !errors.As(err, &mistake) {
		t.Errorf("a file that is gone: %v", err)
	}
}

func TestPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may do anything; see TestOpenThroughAsNobody")
	}
	path := file(t, t.TempDir(), 1<<20)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	var permission *drive.PermissionError
	if _, err := drive.Open(t.Context(), find(t, path), drive.OpenOptions{}); !errors.As(err, &permission) || permission.Path != path {
		t.Errorf("got %v", err)
	}
}

func TestOpenLoop(t *testing.T) {
	for _, c := range []struct {
		summary string
		options []string
		block   int
	}{
		{"blocks of 512", nil, 512},
		{"blocks of 4096", []string{"--sector-size", "4096"}, 4096},
		{"past the backing file's cache", []string{"--direct-io=on"}, 512},
	} {
		t.Run(c.summary, func(t *testing.T) {
			device := loop(t, 64<<20, c.options...)
			d := find(t, device)
			if d.Kind != drive.Loop || d.Size != 64<<20 || d.Candidate() || len(d.Objections()) > 0 {
				t.Errorf("got %+v", d)
			}
			h := open(t, d, false)
			if h.BlockSize() != c.block || h.Size() != 64<<20 {
				t.Errorf("%d bytes in blocks of %d", h.Size(), h.BlockSize())
			}
			exercise(t, h, device)
		})
	}
}

// TestExclusive: nobody mounts a drive that is open, and one whose partition is
// mounted elsewhere, where it cannot be seen, is not opened.
func TestExclusive(t *testing.T) {
	device := partitioned(t)
	h := open(t, find(t, device), false)
	place := t.TempDir()
	if err := unix.Mount(device+"p2", place, "ext4", 0, ""); !errors.Is(err, unix.EBUSY) {
		t.Errorf("mounted while it is open: %v", err)
		unix.Unmount(place, 0)
	}
	if _, err := drive.Open(t.Context(), find(t, device), drive.OpenOptions{}); !isBusy(err) {
		t.Errorf("a second one: %v", err)
	}
	h.Close()
	// Held as a mount of another namespace holds it.
	fd, err := unix.Open(device+"p2", unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = drive.Open(t.Context(), find(t, device), drive.OpenOptions{Force: true})
	unix.Close(fd)
	if !isBusy(err) || !strings.Contains(err.Error(), "lsof "+device) {
		t.Errorf("held by its partition: %v", err)
	}
	open(t, find(t, device), false)
}

func isBusy(err error) bool {
	var busy *drive.BusyError
	return errors.As(err, &busy)
}

// TestMounts: mounts are seen; casual ones are ended, others are refused but with
// force, and one that is in use says who to ask.
func TestMounts(t *testing.T) {
	device := partitioned(t)
	partition := device + "p2"
	if _, err := drive.Find(t.Context(), partition); err == nil || !strings.Contains(err.Error(), "name "+device) {
		t.Errorf("a partition: %v", err)
	}
	elsewhere := filepath.Join(t.TempDir(), "card of mine")
	mount(t, partition, elsewhere)
	d := find(t, device)
	if len(d.Mounts) != 1 || d.Mounts[0] != (drive.Mount{Device: partition, Place: elsewhere}) {
		t.Fatalf("mounts %+v", d.Mounts)
	}
	var refused *drive.RefusedError
	if _, err := drive.Open(t.Context(), d, drive.OpenOptions{}); !errors.As(err, &refused) || len(refused.Objections) != 1 || len(refused.Objections[0].Mounts) != 1 {
		t.Errorf("mounted at a place of its own: %v", err)
	}
	// The backing file says so too.
	backing := find(t, d.Model)
	if _, err := drive.Open(t.Context(), backing, drive.OpenOptions{Force: true}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "attached as "+device) {
		t.Errorf("the file behind it: %v", err)
	}
	// A second mount on top, and it is in use.
	testtool.Run(t, "mount", "--bind", elsewhere, elsewhere)
	t.Cleanup(func() { unix.Unmount(elsewhere, unix.MNT_DETACH) })
	used, err := os.Create(filepath.Join(elsewhere, "used"))
	if err != nil {
		t.Fatal(err)
	}
	var busy *drive.BusyError
	_, err = drive.Open(t.Context(), find(t, device), drive.OpenOptions{Force: true})
	if !errors.As(err, &busy) || busy.Mount == nil || busy.Mount.Place != elsewhere || !strings.Contains(err.Error(), "lsof +f -- '"+elsewhere+"'") {
		t.Errorf("in use: %v", err)
	}
	used.Close()
	h := open(t, find(t, device), true)
	if now := find(t, device); len(now.Mounts) != 0 {
		t.Errorf("still mounted: %+v", now.Mounts)
	}
	h.Close()

	casually := filepath.Join("/media", filepath.Base(t.TempDir())+filepath.Base(device))
	mount(t, partition, casually)
	d = find(t, device)
	if len(d.Mounts) != 1 || !d.Mounts[0].Casual || len(d.Objections()) != 0 {
		t.Fatalf("mounted casually: %+v, %v", d.Mounts, d.Objections())
	}
	h = open(t, d, false)
	if now := find(t, device); len(now.Mounts) != 0 {
		t.Errorf("still mounted: %+v", now.Mounts)
	}
	if err := h.Rescan(); err != nil {
		t.Errorf("rescan: %v", err)
	}
}

func TestSwap(t *testing.T) {
	device := partitioned(t)
	testtool.Run(t, "mkswap", device+"p1")
	testtool.Run(t, "swapon", device+"p1")
	on := true
	t.Cleanup(func() {
		if on {
			exec.Command("swapoff", device+"p1").Run()
		}
	})
	d := find(t, device)
	var refused *drive.RefusedError
	if _, err := drive.Open(t.Context(), d, drive.OpenOptions{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "swap on "+device+"p1") {
		t.Errorf("with swap: %v", err)
	}
	open(t, d, true)
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil || strings.Contains(string(swaps), device) {
		t.Errorf("%s%v", swaps, err)
	} else {
		on = false
	}
}

// TestReadOnly: a device that is locked is refused whatever is said.
func TestReadOnly(t *testing.T) {
	device := loop(t, 1<<20, "--read-only")
	var refused *drive.RefusedError
	if _, err := drive.Open(t.Context(), find(t, device), drive.OpenOptions{Force: true}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("got %v", err)
	}
}

// TestSwapped: another file behind the same loop device, as another card in the
// same reader.
func TestSwapped(t *testing.T) {
	device := loop(t, 1<<20)
	d := find(t, device)
	if d.Sequence == 0 {
		testtool.Missing(t, "a kernel that counts disks (5.15)")
	}
	losetup := testtool.Need(t, "losetup")
	testtool.Run(t, losetup, "--detach", device)
	testtool.Run(t, losetup, device, d.Model)
	_, err := drive.Open(t.Context(), d, drive.OpenOptions{Force: true})
	var changed *drive.ChangedError
	if !errors.As(err, &changed) || !strings.Contains(err.Error(), "a card was taken out or put in since") {
		t.Errorf("got %v", err)
	}
}

// TestKilled: whoever is killed with a drive open leaves nothing behind that
// keeps others away, nor a privileged process.
func TestKilled(t *testing.T) {
	for _, as := range []string{"hold", "hold through"} {
		t.Run(as, func(t *testing.T) {
			device := loop(t, 1<<20)
			child := helper(t, as, device)
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			if _, err := drive.Open(t.Context(), find(t, device), drive.OpenOptions{}); !isBusy(err) {
				t.Errorf("while it lives: %v", err)
			}
			if err := child.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			child.Wait()
			open(t, find(t, device), false)
		})
	}
}

// TestCancelled: waiting for one who has the drive ends with the context.
func TestCancelled(t *testing.T) {
	d := find(t, file(t, t.TempDir(), 1<<20))
	open(t, d, false)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := drive.Open(ctx, d, drive.OpenOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

package grow_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/firstboot/grow"
	"hatchery/internal/testtool"
)

// In a process of its own, the tests grow what cutMount is mounted on, and are
// killed before the step cutStep, as if the power went.
const (
	cutMount = "HATCHERY_GROW_CUT_MOUNT"
	cutStep  = "HATCHERY_GROW_CUT_STEP"
)

func TestMain(m *testing.M) {
	if mount := os.Getenv(cutMount); mount != "" {
		_, err := grow.Ensure(context.Background(), grow.Options{Mount: mount}.CutBefore(func(step string) {
			if step == os.Getenv(cutStep) {
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
				select {}
			}
		}))
		fmt.Println("not cut:", err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A card is a loop device whose partitions the kernel knows, as those of the
// card that a node has booted from.
type card struct {
	t       *testing.T
	file    string
	disk    string // /dev/loop0; "" while it is not inserted
	dir     string
	mounted bool
}

// newCard writes a card of the size (as truncate takes it) with a partition
// table (as sfdisk takes it), and a file system in partition n.
func newCard(t *testing.T, size, table, n string, mkfs ...string) *card {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"sfdisk", "partx", "losetup", "resize2fs", "mke2fs", "e2fsck", "dumpe2fs", "truncate", "mount", "umount"} {
		testtool.Need(t, tool)
	}
	ownMounts(t)
	c := &card{t: t, file: filepath.Join(t.TempDir(), "card"), dir: t.TempDir()}
	testtool.Run(t, "truncate", "-s", size, c.file)
	cmd := exec.Command(testtool.Need(t, "sfdisk"), "--quiet", c.file)
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.insert()
	if mkfs == nil {
		mkfs = []string{"mke2fs", "-q", "-t", "ext4", "-L", "root"}
	}
	testtool.Run(t, mkfs[0], append(mkfs[1:], c.disk+"p"+n)...)
	return c
}

// ownMounts gives the test's thread, and what it starts, mounts of their own.
// Else other tests on the machine that do the same would hold on to the card's.
func ownMounts(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

// insert makes the file a disk: the kernel reads its partition table.
func (c *card) insert() {
	c.t.Helper()
	c.disk = strings.TrimSpace(testtool.Run(c.t, "losetup", "--find", "--show", c.file))
	c.t.Cleanup(c.remove)
	// Not every kernel reads the table of a loop device by itself.
	testtool.Run(c.t, "partx", "--update", c.disk)
}

func (c *card) remove() {
	c.t.Helper()
	if c.disk == "" {
		return
	}
	c.unmount()
	// Somebody who looks at every disk of the machine may have it open.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command(testtool.Need(c.t, "partx"), "--delete", c.disk).CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%v\n%s", err, out)
		}
	}
	testtool.Run(c.t, "losetup", "--detach", c.disk)
	c.disk = ""
}

func (c *card) mount(partition string, options ...string) {
	c.t.Helper()
	testtool.Run(c.t, "mount", append(options, c.disk+"p"+partition, c.dir)...)
	c.mounted = true
}

func (c *card) unmount() {
	c.t.Helper()
	if c.mounted {
		testtool.Run(c.t, "umount", c.dir)
		c.mounted = false
	}
}

// grow grows what is mounted. Where the kernel lets nobody resize a mounted
// file system (no CAP_SYS_RESOURCE), resize2fs does that step afterwards, as
// it does to one that is not mounted.
func (c *card) grow() grow.Status {
	c.t.Helper()
	s, err := grow.Ensure(context.Background(), grow.Options{Mount: c.dir})
	if errors.Is(err, unix.EPERM) && !mayResize(c.t) {
		if !strings.Contains(err.Error(), "cannot grow the file system of "+filepath.Base(c.disk)+"p2 to 264 MiB: ") || !strings.Contains(err.Error(), "CAP_SYS_RESOURCE") {
			c.t.Errorf("it says: %v", err)
		}
		c.t.Log("this kernel lets nobody resize a mounted file system")
		c.unmount()
		testtool.Run(c.t, "e2fsck", "-fy", c.disk+"p2") // which resize2fs wants of one that has been mounted
		testtool.Run(c.t, "resize2fs", c.disk+"p2")
		c.mount("2")
		before := s
		s, err = grow.Ensure(context.Background(), grow.Options{Mount: c.dir})
		s.Grown = s.Grown || before.Grown
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// mayResize says whether this process has CAP_SYS_RESOURCE.
func mayResize(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^CapEff:\s*([0-9a-f]+)$`).FindSubmatch(text)
	if match == nil {
		t.Fatalf("no capabilities in\n%s", text)
	}
	capabilities, err := strconv.ParseUint(string(match[1]), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return capabilities&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// table is what sfdisk makes of the card, but for the device's name.
func (c *card) table() string {
	c.t.Helper()
	return strings.ReplaceAll(testtool.Run(c.t, "sfdisk", "--dump", c.disk), c.disk, "card")
}

// fileSystem is the size of a partition's file system, which must be clean.
func (c *card) fileSystem(partition string) string {
	c.t.Helper()
	c.unmount()
	testtool.Run(c.t, "e2fsck", "-fn", c.disk+"p"+partition)
	out := testtool.Run(c.t, "dumpe2fs", "-h", c.disk+"p"+partition)
	number := func(name string) int {
		match := regexp.MustCompile(name + `: +(\d+)`).FindStringSubmatch(out)
		if match == nil {
			c.t.Fatalf("dumpe2fs says:\n%s", out)
		}
		n, err := strconv.Atoi(match[1])
		if err != nil {
			c.t.Fatal(err)
		}
		return n
	}
	return fmt.Sprintf("%d MiB", number("Block count")*number("Block size")>>20)
}

// raspberry is the layout of Raspberry Pi OS on a card of 300.5 MiB, its root
// of 64 MiB.
const (
	raspberry = "label: dos\nlabel-id: 0x0badcafe\nstart=8192, size=65536, type=c, bootable\nstart=73728, size=131072, type=83\n"
	cardSize  = "307712K"
	// Grown to the last whole MiB: (300 - 36) MiB.
	grownEntry = "cardp2 : start=       73728, size=      540672, type=83\n"
	grownFS    = "264 MiB"
	grownBytes = 264 << 20
)

func (c *card) wantGrown(summary, before string) {
	c.t.Helper()
	want := strings.Replace(before, "size=      131072, type=83", "size=      540672, type=83", 1)
	if got := c.table(); got != want || !strings.Contains(got, grownEntry) || !strings.Contains(got, "label-id: 0x0badcafe\n") {
		c.t.Errorf("%s: table:\n%s\nwant:\n%s", summary, got, want)
	}
	testtool.Run(c.t, "sfdisk", "--verify", c.disk)
	kernel, err := os.ReadFile("/sys/class/block/" + filepath.Base(c.disk) + "p2/size")
	if err != nil || string(kernel) != "540672\n" {
		c.t.Errorf("%s: the kernel has %q, %v", summary, kernel, err)
	}
}

// TestGrow grows a partition in use, and then finds nothing to do.
func TestGrow(t *testing.T) {
	c := newCard(t, cardSize, raspberry, "2")
	before := c.table()
	c.mount("2")
	if err := os.WriteFile(filepath.Join(c.dir, "file"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := grow.Status{Partition: filepath.Base(c.disk) + "p2", PartitionSize: grownBytes, FileSystem: grownBytes, Grown: true}
	if got := c.grow(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	c.wantGrown("grown", before)
	want.Grown = false
	for range 2 {
		got, err := grow.Ensure(context.Background(), grow.Options{Mount: c.dir}.CutBefore(func(step string) { t.Errorf("step %q again", step) }))
		if err != nil || got != want {
			t.Errorf("the second time: %+v, %v", got, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(c.dir, "file")); err != nil || string(text) != "kept" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if got := c.fileSystem("2"); got != grownFS {
		t.Errorf("file system of %s", got)
	}
	c.wantGrown("at last", before)
}

// TestGrowAfterPowerCut ends a run before each of its steps, and the next one
// finishes it: after a boot, when the kernel has read the table again, and
// without one.
func TestGrowAfterPowerCut(t *testing.T) {
	for _, test := range []struct {
		step    string
		entry   bool // it is written
		kernel  bool // it knows
		reboots bool
	}{
		{"entry", false, false, true},
		{"kernel", true, false, true},
		{"file system", true, true, true},
		{"entry", false, false, false},
		{"kernel", true, false, false},
		{"file system", true, true, false},
	} {
		summary := fmt.Sprintf("cut before %q, boot %t", test.step, test.reboots)
		c := newCard(t, cardSize, raspberry, "2")
		before := c.table()
		c.mount("2")
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), cutMount+"="+c.dir, cutStep+"="+test.step)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s: not cut: %v\n%s", summary, err, out)
		}
		if entry := c.table() != before; entry != test.entry {
			t.Errorf("%s: entry written: %t", summary, entry)
		}
		size, err := os.ReadFile("/sys/class/block/" + filepath.Base(c.disk) + "p2/size")
		if kernel := string(size) == "540672\n"; err != nil || kernel != test.kernel {
			t.Errorf("%s: the kernel has %q, %v", summary, size, err)
		}
		if test.reboots {
			c.remove()
			c.insert()
			c.mount("2")
		}
		if got := c.grow(); got.FileSystem != grownBytes || got.Reason != "" {
			t.Errorf("%s: %+v", summary, got)
		}
		c.wantGrown(summary, before)
		if got := c.fileSystem("2"); got != grownFS {
			t.Errorf("%s: file system of %s", summary, got)
		}
		c.remove()
	}
}

// TestLeftAlone: what is not the last partition, number 2, of an MBR with room
// behind it.
func TestLeftAlone(t *testing.T) {
	for _, test := range []struct {
		summary, size, table, partition, says string
		mkfs                                  []string
	}{
		{"no room", "100M", raspberry, "2", "", nil},
		{"less than a MiB", "103300K", raspberry, "2", "", nil},
		{"less than a MiB behind an odd end", "100M", strings.Replace(raspberry, "size=131072", "size=131000", 1), "2", "", nil},
		{"another partition behind it", cardSize, raspberry + "start=300000, size=2048\n", "2", "p3 lies behind", nil},
		{"not partition 2", cardSize, "label: dos\nstart=8192, size=65536\n", "1", "is not partition 2", nil},
		{"GPT", cardSize, "label: gpt\nstart=8192, size=65536\nstart=73728, size=131072\n", "2", "has no MBR", nil},
		{"extended partitions", cardSize, "label: dos\nstart=8192, size=65536, type=5\nstart=73728, size=131072, type=83\n", "2", "is an extended partition", nil},
	} {
		c := newCard(t, test.size, test.table, test.partition, test.mkfs...)
		before, size := c.table(), c.fileSystem(test.partition)
		c.mount(test.partition)
		got, err := grow.Ensure(context.Background(), grow.Options{Mount: c.dir})
		if err != nil || got.Grown || !strings.Contains(got.Reason, test.says) || (got.Reason == "") != (test.says == "") {
			t.Errorf("%s: %+v, %v", test.summary, got, err)
		}
		if fmt.Sprintf("%d MiB", got.FileSystem>>20) != size {
			t.Errorf("%s: it takes the file system for one of %d bytes", test.summary, got.FileSystem)
		}
		if got := c.table(); got != before {
			t.Errorf("%s: table:\n%s\nwas:\n%s", test.summary, got, before)
		}
		if got := c.fileSystem(test.partition); got != size {
			t.Errorf("%s: file system of %s, was of %s", test.summary, got, size)
		}
		c.remove()
	}
}

// TestOtherFileSystem: the partition grows, a file system that is none of ours
// does not.
func TestOtherFileSystem(t *testing.T) {
	testtool.Need(t, "mkfs.xfs")
	// Less than 300 MiB of it are for tests only.
	c := newCard(t, cardSize, raspberry, "2", "mkfs.xfs", "-q", "-f", "--unsupported")
	before := c.table()
	c.mount("2")
	got, err := grow.Ensure(context.Background(), grow.Options{Mount: c.dir})
	if err != nil || got.Reason != "its file system is no ext4" || !got.Grown {
		t.Errorf("%+v, %v", got, err)
	}
	c.wantGrown("another file system", before)
}

// TestTableChangedMeanwhile: a table that is not what the kernel goes by is
// nothing to build on.
func TestTableChangedMeanwhile(t *testing.T) {
	c := newCard(t, cardSize, raspberry, "2")
	c.mount("2")
	cmd := exec.Command(testtool.Need(t, "sfdisk"), "--quiet", "--no-reread", "--no-tell-kernel", "--force", c.disk)
	cmd.Stdin = strings.NewReader(strings.Replace(raspberry, "start=73728", "start=75776", 1))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := c.table()
	got, err := grow.Ensure(context.Background(), grow.Options{Mount: c.dir})
	if err != nil || got.Grown || !strings.Contains(got.Reason, "is not what the kernel has") {
		t.Errorf("%+v, %v", got, err)
	}
	if c.table() != before {
		t.Errorf("table:\n%s", c.table())
	}
}

// TestNoPartition: a root over the network, in memory, or of several layers.
func TestNoPartition(t *testing.T) {
	got, err := grow.Ensure(context.Background(), grow.Options{Mount: "/proc"})
	if err != nil || got.Grown || got.Reason != "the root is no partition of a disk" || got.String() != "nothing to grow: the root is no partition of a disk" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := grow.Ensure(context.Background(), grow.Options{Mount: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("nothing mounted: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := grow.Ensure(ctx, grow.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
}

package overlays_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"hatchery/internal/testtool"
)

// A card is a loop device whose partitions the kernel knows, as those of the
// card that a node has booted from.
type card struct {
	t    *testing.T
	file string
	disk string // /dev/loop0; "" while it is not inserted
	grow string // the script
	bin  string // goes before the tools, for some to be replaced
}

// newCard writes a card of the size (as truncate takes it) with a partition
// table (as sfdisk takes it), and a file system in partition n.
func newCard(t *testing.T, size, table string, n string) *card {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"sfdisk", "partx", "losetup", "resize2fs", "mke2fs", "e2fsck", "dumpe2fs", "debugfs", "truncate", "mount", "umount"} {
		testtool.Need(t, tool)
	}
	dir := t.TempDir()
	c := &card{t: t, file: filepath.Join(dir, "card"), bin: filepath.Join(dir, "bin")}
	c.grow = filepath.Join(layOutVariant(t, exampleData("p1")), "usr/lib/hatchery/grow")
	if err := os.Mkdir(c.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "truncate", "-s", size, c.file)
	cmd := exec.Command(testtool.Need(t, "sfdisk"), "--quiet", c.file)
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.insert()
	testtool.Run(t, "mke2fs", "-q", "-t", "ext4", "-L", "root", c.disk+"p"+n)
	return c
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
	testtool.Run(c.t, "partx", "--delete", c.disk)
	testtool.Run(c.t, "losetup", "--detach", c.disk)
	c.disk = ""
}

// run runs the script over a partition. It never fails.
func (c *card) run(partition string) string {
	c.t.Helper()
	cmd := exec.Command(testtool.Need(c.t, "sh"), c.grow, c.disk+"p"+partition)
	cmd.Env = append(os.Environ(), "PATH="+c.bin+":/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// table is what sfdisk makes of the card, but for the device's name.
func (c *card) table() string {
	c.t.Helper()
	return strings.ReplaceAll(testtool.Run(c.t, "sfdisk", "--dump", c.disk), c.disk, "card")
}

// fileSystem is the size of a partition's file system, which must be clean.
func (c *card) fileSystem(partition string) string {
	c.t.Helper()
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

func (c *card) replace(tool, script string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.bin, tool), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		c.t.Fatal(err)
	}
}

func (c *card) restore(tool string) {
	c.t.Helper()
	if err := os.Remove(filepath.Join(c.bin, tool)); err != nil {
		c.t.Fatal(err)
	}
}

// raspberry is the layout of Raspberry Pi OS on a card of 300.5 MiB, its root
// of 64 MiB.
const (
	raspberry = "label: dos\nlabel-id: 0x0badcafe\nstart=8192, size=65536, type=c, bootable\nstart=73728, size=131072, type=83\n"
	cardSize  = "307712K"
	// Grown to the last whole MiB: (300 - 36) MiB.
	grownEntry = "cardp2 : start=       73728, size=      540672, type=83\n"
	grownFS    = "264 MiB"
)

func (c *card) wantGrown(before string) {
	c.t.Helper()
	want := strings.Replace(before, "size=      131072, type=83", "size=      540672, type=83", 1)
	if got := c.table(); got != want || !strings.Contains(got, grownEntry) || !strings.Contains(got, "label-id: 0x0badcafe\n") {
		c.t.Errorf("table:\n%s\nwant:\n%s", got, want)
	}
	kernel, err := os.ReadFile("/sys/class/block/" + filepath.Base(c.disk) + "p2/size")
	if err != nil || string(kernel) != "540672\n" {
		c.t.Errorf("the kernel has %q, %v", kernel, err)
	}
}

func TestGrow(t *testing.T) {
	c := newCard(t, cardSize, raspberry, "2")
	before := c.table()
	if got := c.run("2"); !strings.Contains(got, "p2 grown from 64 to 264 MiB") {
		t.Errorf("grow says:\n%s", got)
	}
	c.wantGrown(before)
	// A small file system has blocks of 1 KiB.
	if got := c.fileSystem("2"); got != grownFS {
		t.Errorf("file system of %s", got)
	}
	// At the next boots there is nothing to do: sfdisk is not even asked.
	c.replace("sfdisk", "echo sfdisk is run")
	defer c.restore("sfdisk")
	for range 2 {
		if got := c.run("2"); !strings.Contains(got, "Nothing to do!") || strings.Contains(got, "sfdisk is run") || strings.Contains(got, "grown") {
			t.Errorf("grow says, the second time:\n%s", got)
		}
	}
	c.wantGrown(before)
}

// TestGrowMounted grows a partition in use. Where the kernel lets nobody
// resize a mounted file system (no CAP_SYS_RESOURCE), that step is done by the
// next run, as after a power cut.
func TestGrowMounted(t *testing.T) {
	c := newCard(t, cardSize, raspberry, "2")
	before := c.table()
	mnt := t.TempDir()
	testtool.Run(t, "mount", c.disk+"p2", mnt)
	mounted := true
	defer func() {
		if mounted {
			testtool.Run(t, "umount", mnt)
		}
	}()
	if err := os.WriteFile(filepath.Join(mnt, "file"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := c.run("2")
	c.wantGrown(before)
	testtool.Run(t, "umount", mnt)
	mounted = false
	if strings.Contains(got, "the file system of "+filepath.Base(c.disk)+"p2 is not grown") {
		if !strings.Contains(got, "Permission denied to resize filesystem") {
			t.Errorf("grow says:\n%s", got)
		}
		t.Log("this kernel lets nobody resize a mounted file system")
		testtool.Run(t, "e2fsck", "-fy", c.disk+"p2") // which resize2fs wants of one that has been mounted
		c.run("2")
	}
	if got := c.fileSystem("2"); got != grownFS {
		t.Errorf("file system of %s", got)
	}
	if out := testtool.Run(t, "debugfs", "-R", "cat /file", c.disk+"p2"); !strings.HasSuffix(out, "kept") {
		t.Errorf("the file holds %q", out)
	}
}

// TestGrowAfterPowerCut ends a run after each of its steps.
func TestGrowAfterPowerCut(t *testing.T) {
	for _, test := range []struct{ summary, tool, script string }{
		{"before the entry is written", "sfdisk", `case $* in *--dump*) exec /usr/sbin/sfdisk "$@";; esac; kill -9 $PPID`},
		{"before the kernel knows", "partx", "kill -9 $PPID"},
		{"before the file system is grown", "resize2fs", "kill -9 $PPID"},
	} {
		c := newCard(t, cardSize, raspberry, "2")
		before := c.table()
		c.replace(test.tool, test.script)
		cmd := exec.Command(testtool.Need(t, "sh"), c.grow, c.disk+"p2")
		cmd.Env = append(os.Environ(), "PATH="+c.bin+":/usr/sbin:/usr/bin:/sbin:/bin")
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Fatalf("%s: not cut:\n%s", test.summary, out)
		}
		c.restore(test.tool)
		c.remove()
		c.insert()
		c.run("2")
		c.wantGrown(before)
		if got := c.fileSystem("2"); got != grownFS {
			t.Errorf("%s: file system of %s", test.summary, got)
		}
		c.remove()
	}
}

// TestGrowLeavesAlone: what is not the last partition, number 2, of an MBR
// with room behind it.
func TestGrowLeavesAlone(t *testing.T) {
	for _, test := range []struct{ summary, size, table, partition, says string }{
		{"no room", "100M", raspberry, "2", "Nothing to do!"},
		{"less than a MiB", "103300K", raspberry, "2", "Nothing to do!"},
		{"less than a MiB behind an odd end", "100M", strings.Replace(raspberry, "size=131072", "size=131000", 1), "2", "Nothing to do!"},
		{"another partition behind it", cardSize, raspberry + "start=300000, size=2048\n", "2", "p3 lies behind"},
		{"not partition 2", cardSize, "label: dos\nstart=8192, size=65536\n", "1", "is not partition 2"},
		{"GPT", cardSize, "label: gpt\nstart=8192, size=65536\nstart=73728, size=131072\n", "2", "has no MBR"},
	} {
		c := newCard(t, test.size, test.table, test.partition)
		before, size := c.table(), c.fileSystem(test.partition)
		if got := c.run(test.partition); !strings.Contains(got, test.says) {
			t.Errorf("%s: grow says:\n%s", test.summary, got)
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

// TestGrowNeverFails runs it where it can do nothing: a failed unit has a
// system look degraded.
func TestGrowNeverFails(t *testing.T) {
	sh := testtool.Need(t, "sh")
	grow := filepath.Join(layOutVariant(t, exampleData("p1")), "usr/lib/hatchery/grow")
	out, err := exec.Command(sh, grow, "/dev/none").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "no partition of a disk") {
		t.Errorf("no such device: %v\n%s", err, out)
	}
	c := newCard(t, cardSize, raspberry, "2")
	before := c.table()
	for _, test := range []struct{ tool, script, says string }{
		{"sfdisk", "exit 1", "cannot read the partition table"},
		{"sfdisk", `case $* in *--dump*) exec /usr/sbin/sfdisk "$@";; esac; exit 1`, "cannot write the partition table"},
		{"resize2fs", "exit 1", "the file system of"},
	} {
		c.replace(test.tool, test.script)
		if got := c.run("2"); !strings.Contains(got, test.says) {
			t.Errorf("%s: grow says:\n%s", test.tool, got)
		}
		c.restore(test.tool)
		if test.tool == "sfdisk" && c.table() != before {
			t.Errorf("the table has changed:\n%s", c.table())
		}
	}
	// A root of which the tools are missing.
	cmd := exec.Command(sh, grow, c.disk+"p2")
	cmd.Env = []string{"PATH=" + c.bin}
	c.replace("readlink", `exec /usr/bin/readlink "$@"`)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "there is no sfdisk") {
		t.Errorf("no tools: %v\n%s", err, out)
	}
}

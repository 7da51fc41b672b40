package drive

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// linux is the kernel's view of disks: what lies below sys, proc, dev and
// run/udev of a folder, / but in tests.
type linux struct{ root string }

var here = linux{root: "/"}

// A block is a block device: a disk, a partition, or what is made of them.
type block struct {
	name    string // sdb1, cciss!c0d0
	number  string // 8:17
	dir     string // below sys/devices, links resolved, with the root
	disk    *block // of a partition
	parts   []*block
	holders []string // names of what is made of it
	backing *backing // of a loop device that is attached
}

// A table is the block devices at one moment, and who uses them.
type table struct {
	linux
	blocks []*block // disks, not partitions
	named  map[string]*block
	number map[string]*block
	mounts []mounted
	on     map[string][]mounted // by the block's name
	swaps  map[string]bool      // by the block's name
	loops  map[string][]*block  // over a block device, by its name

	swapFiles map[string]bool // by device and inode
}

func (l linux) path(names ...string) string {
	return filepath.Join(append([]string{l.root}, names...)...)
}

// text is a file's content without the blanks at its ends, "" where there is
// none that can be read.
func text(names ...string) string {
	content, err := os.ReadFile(filepath.Join(names...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}

func number(names ...string) int64 {
	n, err := strconv.ParseInt(text(names...), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (l linux) table() (*table, error) {
	t := &table{linux: l, named: map[string]*block{}, number: map[string]*block{}, on: map[string][]mounted{}, swaps: map[string]bool{}, loops: map[string][]*block{}, swapFiles: map[string]bool{}}
	entries, err := os.ReadDir(l.path("sys/block"))
	if err != nil {
		return nil, fmt.Errorf("cannot see this machine's disks: %w", err)
	}
	for _, entry := range entries {
		dir, err := filepath.EvalSymlinks(l.path("sys/block", entry.Name()))
		if err != nil {
			continue // it was pulled out just now
		}
		b := t.add(entry.Name(), dir)
		if b == nil {
			continue
		}
		t.blocks = append(t.blocks, b)
		inside, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, sub := range inside {
			if _, err := os.Stat(filepath.Join(dir, sub.Name(), "partition")); err != nil {
				continue
			}
			if p := t.add(sub.Name(), filepath.Join(dir, sub.Name())); p != nil {
				p.disk = b
				b.parts = append(b.parts, p)
			}
		}
	}
	slices.SortFunc(t.blocks, func(a, b *block) int { return byName(a.name, b.name) })
	t.attach()
	mountinfo, err := os.ReadFile(l.path("proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("cannot see what is mounted: %w", err)
	}
	t.mounts = parseMountinfo(string(mountinfo))
	t.place()
	for _, name := range parseSwaps(text(l.path("proc/swaps"))) {
		if b := t.source(name); b != nil {
			t.swaps[b.name] = true
		} else if file, err := os.Stat(l.path(name)); err == nil {
			if stat, ok := file.Sys().(*syscall.Stat_t); ok && file.Mode().IsRegular() {
				t.swapFiles[inode(uint64(stat.Dev), stat.Ino)] = true
			}
		}
	}
	return t, nil
}

func (t *table) add(name, dir string) *block {
	b := &block{name: name, dir: dir, number: text(dir, "dev")}
	if !isNumber(b.number) {
		return nil
	}
	if holders, err := os.ReadDir(filepath.Join(dir, "holders")); err == nil {
		for _, h := range holders {
			b.holders = append(b.holders, h.Name())
		}
	}
	t.named[name], t.number[b.number] = b, b
	return b
}

// place finds the devices of each mount: by its number and, for file systems
// that lie on several devices and have a number of their own, by their source.
func (t *table) place() {
	put := func(b *block, m mounted) {
		if !slices.Contains(t.on[b.name], m) {
			t.on[b.name] = append(t.on[b.name], m)
		}
	}
	btrfs := t.btrfs()
	claimed := make([]bool, len(btrfs))
	var lost []mounted
	for _, m := range t.mounts {
		if b := t.number[m.number]; b != nil {
			put(b, m)
			continue
		}
		// Others of no device, such as tmpfs, may call their source as they like.
		if m.kind != "btrfs" && m.kind != "bcachefs" && !strings.HasPrefix(m.kind, "fuse") {
			continue
		}
		found := false
		// bcachefs names all its devices, with colons between.
		for _, source := range strings.Split(m.source, ":") {
			b := t.source(source)
			if b == nil {
				continue
			}
			put(b, m)
			for i, members := range btrfs {
				if m.kind == "btrfs" && slices.Contains(members, b) {
					claimed[i], found = true, true
					for _, member := range members {
						put(member, m)
					}
				}
			}
		}
		if m.kind == "btrfs" && !found {
			lost = append(lost, m)
		}
	}
	// A source such as /dev/root names no device. It is then one of those that
	// no other mount has, and each of them may be it.
	for _, m := range lost {
		for i, members := range btrfs {
			for _, member := range members {
				if !claimed[i] {
					put(member, m)
				}
			}
		}
	}
	t.zfs(put)
	t.carry(put)
}

// carry puts a system place that is an overlay, or lies on a loop device's file,
// onto the devices below: a live system's medium, or the card of a machine that
// keeps what it writes in memory (overlayroot).
func (t *table) carry(put func(*block, mounted)) {
	// The devices of a file system.
	on := func(number string) (all []*block) {
		if b := t.number[number]; b != nil {
			return []*block{b}
		}
		for _, b := range t.named {
			if slices.ContainsFunc(t.on[b.name], func(m mounted) bool { return m.number == number }) {
				all = append(all, b)
			}
		}
		return all
	}
	for _, m := range t.mounts {
		if !system(m.place) {
			continue
		}
		seen := map[mounted]bool{}
		var down func(mounted)
		down = func(layer mounted) {
			if seen[layer] {
				return
			}
			seen[layer] = true
			for _, dir := range layer.layers() {
				if holder, found := holding(t.mounts, dir, layer); found {
					down(holder)
				}
			}
			for _, b := range on(layer.number) {
				put(b, m)
				disk := b
				if b.disk != nil {
					disk = b.disk
				}
				if disk.backing == nil || disk.backing.on != nil {
					continue
				}
				for _, file := range disk.backing.files {
					number, _, _ := strings.Cut(file, " ")
					for _, other := range t.mounts {
						if other.number == number {
							down(other)
						}
					}
				}
			}
		}
		down(m)
	}
}

// btrfs gives the devices of each mounted btrfs.
func (t *table) btrfs() (all [][]*block) {
	systems, err := os.ReadDir(t.path("sys/fs/btrfs"))
	if err != nil {
		return nil
	}
	for _, system := range systems {
		devices, err := os.ReadDir(t.path("sys/fs/btrfs", system.Name(), "devices"))
		if err != nil {
			continue
		}
		var members []*block
		for _, device := range devices {
			if b := t.named[device.Name()]; b != nil {
				members = append(members, b)
			}
		}
		all = append(all, members)
	}
	return all
}

// zfs puts the mounts of every pool onto every member of one: which is whose is
// not told outside of the pools' own tools.
func (t *table) zfs(put func(*block, mounted)) {
	var mounts []mounted
	for _, m := range t.mounts {
		if m.kind == "zfs" {
			mounts = append(mounts, m)
		}
	}
	if mounts == nil {
		return
	}
	for _, b := range t.named {
		if t.udev(b, "ID_FS_TYPE") != "zfs_member" {
			continue
		}
		for _, m := range mounts {
			put(b, m)
		}
	}
}

// udev is what udevd remembers of a device (systemd, src/libsystemd/sd-device).
func (t *table) udev(b *block, key string) string {
	for line := range strings.Lines(text(t.path("run/udev/data", "b"+b.number))) {
		if value, found := strings.CutPrefix(line, "E:"+key+"="); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// source is the block device of a name below /dev, which may be a link.
func (t *table) source(name string) *block {
	inside, found := strings.CutPrefix(path.Clean(name), "/dev/")
	if !found {
		return nil
	}
	if real, err := filepath.EvalSymlinks(t.path("dev", inside)); err == nil {
		root, err := filepath.EvalSymlinks(t.path("dev"))
		if err != nil {
			return nil
		}
		if relative, err := filepath.Rel(root, real); err == nil {
			inside = filepath.ToSlash(relative)
		}
	}
	if b := t.named[strings.ReplaceAll(inside, "/", "!")]; b != nil {
		return b
	}
	if mapped, found := strings.CutPrefix(inside, "mapper/"); found {
		for _, b := range t.named {
			if text(b.dir, "dm/name") == mapped {
				return b
			}
		}
	}
	return nil
}

// device is a block's path in /dev.
func (b *block) device() string {
	if name := text(b.dir, "dm/name"); name != "" {
		return "/dev/mapper/" + name
	}
	return b.plain()
}

// plain is the path in /dev that the kernel itself gives.
func (b *block) plain() string { return "/dev/" + strings.ReplaceAll(b.name, "!", "/") }

// list gives the disks.
func (l linux) list(ctx context.Context) ([]Drive, error) {
	t, err := l.table()
	if err != nil {
		return nil, err
	}
	var all []Drive
	for _, b := range t.blocks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if t.kind(b) == Disk {
			all = append(all, t.drive(b, Disk))
		}
	}
	return all, nil
}

package drive

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A backing is what a loop device shows: a block device or a file.
type backing struct {
	path string // as the kernel names it, which may be a path of another mount namespace
	on   *block // the block device; nil for a file
	// files are the file's device and inode, as [Drive.Number] has them: from the
	// loop device and by its path, none where neither could be seen.
	files []string
}

// inode is a file's number.
func inode(dev, ino uint64) string {
	return fmt.Sprintf("%d:%d inode %d", unix.Major(dev), unix.Minor(dev), ino)
}

// attach finds out what the loop devices show.
func (t *table) attach() {
	for _, b := range t.blocks {
		content, err := os.ReadFile(filepath.Join(b.dir, "loop/backing_file"))
		if name := strings.TrimSuffix(string(content), "\n"); err == nil && name != "" {
			b.backing = t.resolve(b, name)
			if on := b.backing.on; on != nil {
				t.loops[on.name] = append(t.loops[on.name], b)
			}
		}
	}
}

// resolve asks the loop device itself, where this user may open it, and
// otherwise believes its path.
func (t *table) resolve(b *block, name string) *backing {
	shows := &backing{path: name}
	if info := t.status(b); info != nil {
		// For a file the kernel gives its file system's device twice
		// (drivers/block/loop.c, loop_get_status).
		if info.Rdevice != 0 && info.Rdevice != info.Device {
			shows.on = t.number[fmt.Sprintf("%d:%d", unix.Major(info.Rdevice), unix.Minor(info.Rdevice))]
		} else {
			shows.files = []string{inode(info.Device, info.Inode)}
		}
	}
	if shows.on != nil {
		return shows
	}
	if file, err := os.Stat(t.path(name)); err == nil {
		stat, ok := file.Sys().(*syscall.Stat_t)
		switch {
		case !ok:
		case file.Mode().IsRegular():
			if number := inode(uint64(stat.Dev), stat.Ino); !slices.Contains(shows.files, number) {
				shows.files = append(shows.files, number)
			}
			return shows
		case stat.Mode&unix.S_IFMT == unix.S_IFBLK && shows.files == nil:
			shows.on = t.number[fmt.Sprintf("%d:%d", unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev)))]
			return shows
		}
	}
	if shows.files == nil {
		shows.on = t.source(name)
	}
	return shows
}

// status is what a loop device says of itself, loop(4); nil where this user may
// not open it.
func (t *table) status(b *block) *unix.LoopInfo64 {
	fd, err := unix.Open(t.path(b.plain()), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFBLK ||
		fmt.Sprintf("%d:%d", unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev))) != b.number {
		return nil
	}
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return nil
	}
	return info
}

// shows says whether a loop device shows one of the files. Where its file
// cannot be seen, one of the same name and size is taken for it.
func (b *block) shows(files []string, path string, size int64) bool {
	switch {
	case b.backing == nil || b.backing.on != nil:
		return false
	case b.backing.files != nil:
		return slices.ContainsFunc(files, func(f string) bool { return slices.Contains(b.backing.files, f) })
	case filepath.Base(b.backing.path) != filepath.Base(path):
		return false
	}
	return number(b.dir, "loop/sizelimit") != 0 || number(b.dir, "loop/offset")/512+number(b.dir, "size") == size/512
}

// below finds out who uses what a block lies on: a partition on its disk, a loop
// device on another device or on a file that others show, too.
func (t *table) below(b *block, d *Drive, seen map[string]bool) {
	for range t.named { // no chain is longer
		switch {
		case b.disk != nil:
			b = b.disk
			if !seen[b.name] {
				seen[b.name] = true
				t.direct(b, d, seen)
			}
		case b.backing == nil:
			return
		case b.backing.on != nil:
			b = b.backing.on
			t.use(b, d, seen)
		default:
			size := (number(b.dir, "loop/offset")/512 + number(b.dir, "size")) * 512
			t.shared(b.backing.files, b.backing.path, size, d, seen)
			return
		}
	}
}

// shared finds out who uses a file: loop devices, and swap.
func (t *table) shared(files []string, path string, size int64, d *Drive, seen map[string]bool) {
	for _, file := range files {
		if t.swapFiles[file] {
			d.Users = append(d.Users, "swap in "+shown(path))
		}
	}
	for _, b := range t.blocks {
		if seen[b.name] || !b.shows(files, path, size) {
			continue
		}
		d.Users = append(d.Users, "attached as "+b.plain())
		t.use(b, d, seen)
	}
}

// root is the path of what a loop device stands for in the end, be there other
// loop devices between.
func (b *block) root() string {
	path := ""
	for range 64 {
		switch {
		case b.disk != nil && b.disk.backing != nil:
			b = b.disk
		case b.backing == nil:
			return path
		default:
			if path = b.backing.path; b.backing.on == nil {
				return path
			}
			b = b.backing.on
			path = b.plain()
		}
	}
	return path
}

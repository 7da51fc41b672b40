package drive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

func (l linux) find(_ context.Context, path string) (Drive, error) {
	info, real, err := look(path)
	if err != nil {
		return Drive{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Drive{}, fmt.Errorf("cannot see what %s is", shown(path))
	}
	if info.Mode().IsRegular() {
		return l.file(path, real, info)
	}
	t, err := l.table()
	if err != nil {
		return Drive{}, err
	}
	return t.numbered(path, fmt.Sprintf("%d:%d", unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev))))
}

// numbered gives the drive of a block device's number, path being what the user
// called it.
func (t *table) numbered(path, number string) (Drive, error) {
	refuse := func(format string, args ...any) (Drive, error) {
		return Drive{}, &InputError{Path: path, Problem: shown(path) + fmt.Sprintf(format, args...)}
	}
	b := t.number[number]
	switch {
	case b == nil:
		return refuse(" is no disk of this machine any more: `hatchery flash --list` shows those that are")
	case b.disk != nil:
		return refuse(" is a partition: an image is for a whole disk, name %s", b.disk.plain())
	}
	kind := t.kind(b)
	if kind == "" {
		return refuse(" is no disk that a card can be: `hatchery flash --list` shows those that are")
	}
	return t.drive(b, kind), nil
}

// file is a regular file that stands for a card.
func (l linux) file(path, real string, info fs.FileInfo) (Drive, error) {
	stat := info.Sys().(*syscall.Stat_t)
	d := Drive{
		Path: real, Kind: File, Size: info.Size(),
		Number: inode(uint64(stat.Dev), stat.Ino),
	}
	t, err := l.table()
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil // no /sys, as in a chroot: its loop devices are not seen
	}
	if err != nil {
		return Drive{}, err
	}
	t.shared([]string{d.Number}, real, d.Size, &d, map[string]bool{})
	return d, nil
}

package drive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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

// look finds what a user named, and refuses what is neither a disk nor a file.
func look(path string) (info fs.FileInfo, real string, err error) {
	refuse := func(format string, args ...any) (fs.FileInfo, string, error) {
		return nil, "", &InputError{Path: path, Problem: shown(path) + fmt.Sprintf(format, args...)}
	}
	if path == "" {
		return nil, "", &InputError{Problem: "no drive is named"}
	}
	info, err = os.Stat(path)
	if err == nil {
		if real, err = filepath.EvalSymlinks(path); err == nil {
			real, err = filepath.Abs(real)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(path, "/dev/"):
		return refuse(" is not there: `hatchery flash --list` shows the disks of this machine")
	case errors.Is(err, fs.ErrNotExist):
		return refuse(" is not there: name a disk of `hatchery flash --list`, or make a file of a card's size first (truncate -s 8G FILE)")
	case errors.Is(err, fs.ErrPermission):
		return nil, "", &PermissionError{Path: path}
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL):
		return refuse(" is no path of a disk: `hatchery flash --list` shows the disks of this machine")
	case err != nil:
		return nil, "", fmt.Errorf("cannot see what %s is: %w", shown(path), err)
	case info.IsDir():
		return refuse(" is a folder: name the disk itself, which `hatchery flash --list` shows")
	case !info.Mode().IsRegular() && (info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0):
		return refuse(" is neither a disk nor a file: `hatchery flash --list` shows the disks of this machine")
	}
	return info, real, nil
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
		Number: fmt.Sprintf("%d:%d inode %d", unix.Major(uint64(stat.Dev)), unix.Minor(uint64(stat.Dev)), stat.Ino),
	}
	t, err := l.table()
	if err != nil {
		return Drive{}, err
	}
	for _, b := range t.blocks {
		backing := text(b.dir, "loop/backing_file")
		if backing == "" {
			continue
		}
		if other, err := os.Stat(backing); err != nil || !os.SameFile(info, other) {
			continue
		}
		d.Users = append(d.Users, "attached as "+b.plain())
		of := t.drive(b, Loop)
		d.Mounts = append(d.Mounts, of.Mounts...)
		d.System = d.System || of.System
	}
	return d, nil
}

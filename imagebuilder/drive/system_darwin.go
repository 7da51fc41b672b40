package drive

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

var here = mac{diskutil{run}}

// mac is diskutil's view with the devices' numbers.
type mac struct{ diskutil }

// raw is the path of a disk past the system's cache.
func raw(path string) string { return strings.Replace(path, "/dev/disk", "/dev/rdisk", 1) }

func numbered(d Drive) Drive {
	var stat unix.Stat_t
	if err := unix.Stat(raw(d.Path), &stat); err == nil {
		d.Number = deviceNumber(stat)
	}
	return d
}

func deviceNumber(stat unix.Stat_t) string {
	return fmt.Sprintf("%d:%d", unix.Major(uint64(uint32(stat.Rdev))), unix.Minor(uint64(uint32(stat.Rdev))))
}

func fileNumber(stat unix.Stat_t) string { return fmt.Sprintf("%d inode %d", stat.Dev, stat.Ino) }

func (m mac) list(ctx context.Context) ([]Drive, error) {
	all, err := m.diskutil.list(ctx)
	for i := range all {
		all[i] = numbered(all[i])
	}
	return all, err
}

func (m mac) find(ctx context.Context, path string) (Drive, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		if real, err = filepath.Abs(real); err == nil && filepath.Dir(real) == "/dev" && macNode.MatchString(filepath.Base(real)) {
			d, err := m.named(ctx, path, filepath.Base(real))
			return numbered(d), err
		}
	}
	info, real, err := look(path)
	if err != nil {
		return Drive{}, err
	}
	if !info.Mode().IsRegular() {
		return Drive{}, &InputError{Path: path, Problem: shown(path) + " is no disk: `hatchery flash --list` shows the disks of this machine"}
	}
	var stat unix.Stat_t
	if err := unix.Stat(real, &stat); err != nil {
		return Drive{}, fmt.Errorf("cannot see what %s is: %w", shown(path), err)
	}
	d := Drive{Path: real, Kind: File, Size: info.Size(), Number: fileNumber(stat)}
	d.Users, err = m.attached(ctx, real)
	return d, err
}

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
)

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

// runner runs a program of the system's and gives its standard output.
type runner func(ctx context.Context, name string, args ...string) ([]byte, error)

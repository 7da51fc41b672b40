package arm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fatMagic is a FAT's in statfs(2) (linux/magic.h, MSDOS_SUPER_MAGIC).
const fatMagic = 0x4d44

// Find finds the card of the running system: the disk that has the root as a partition,
// with its first partition, a FAT, mounted where Raspberry Pi OS has it. The error is
// ErrNoCard where the root is no partition of a disk.
func Find() (Place, error) { return find("/", []string{"/boot/firmware", "/boot"}, fatMagic) }

func find(root string, boots []string, magic int64) (Place, error) {
	_, card, err := partitionOf(root)
	if err != nil {
		return Place{}, err
	}
	why := "its boot partition is not mounted on " + strings.Join(boots, " or ")
	for _, boot := range boots {
		// The images have it mounted when somebody looks into it (x-systemd.automount), and
		// stat(2) does not. Where it cannot be, that is seen below.
		if looked, err := os.Open(boot); err == nil {
			looked.Close()
		}
		number, disk, err := partitionOf(boot)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNoCard) || err == nil && (disk != card || number != "1") {
			continue
		}
		if err != nil {
			return Place{}, err
		}
		var s unix.Statfs_t
		if err := unix.Statfs(boot, &s); err != nil {
			return Place{}, fmt.Errorf("cannot see what is mounted on %s: %w", boot, err)
		}
		switch {
		case int64(s.Type) != magic: // its type differs by architecture
			why = boot + " is no FAT"
		case s.Flags&unix.ST_RDONLY != 0:
			return Place{}, fmt.Errorf("%s is mounted read-only: mount -o remount,rw %s, or see why in the kernel's log", boot, boot)
		default:
			return Place{Disk: "/dev/" + card, Boot: boot}, nil
		}
	}
	return Place{}, &NotPreparedError{why}
}

// partitionOf gives the number of the partition that is mounted there, and the name of its
// disk. It goes by the device's number: a name like /dev/root says nothing.
func partitionOf(mount string) (number, disk string, err error) {
	var stat unix.Stat_t
	if err := unix.Stat(mount, &stat); err != nil {
		return "", "", fmt.Errorf("cannot see what is mounted on %s: %w", mount, err)
	}
	device := uint64(stat.Dev) // its type differs by architecture
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(device), unix.Minor(device)))
	if err == nil {
		var text []byte
		if text, err = os.ReadFile(filepath.Join(dir, "partition")); err == nil {
			// In /sys a slash is an exclamation mark.
			return strings.TrimSpace(string(text)), strings.ReplaceAll(filepath.Base(filepath.Dir(dir)), "!", "/"), nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", ErrNoCard
	}
	return "", "", fmt.Errorf("cannot see what is mounted on %s: %w", mount, err)
}

// syncFS has everything of the file system that a folder is on reach the card.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot write %s: %w", dir, err)
	}
	return nil
}

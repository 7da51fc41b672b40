package bootpart

import (
	"errors"
	"fmt"
)

// ErrNoSpace says that the partition, or a directory on it, is full. The
// operation has changed nothing.
var ErrNoSpace = errors.New("no space left on the boot partition")

// ErrNotClean says that the file system was in use when the image was made,
// or that a check has found faults: it must be repaired before it is changed.
var ErrNotClean = errors.New("the FAT file system was not unmounted cleanly: repair it with fsck.vfat -a")

// A NotFAT32Error says what lies where the boot partition should be.
type NotFAT32Error struct {
	Found string // "exFAT"
}

func (e *NotFAT32Error) Error() string {
	return fmt.Sprintf("the boot partition holds %s, not FAT32: give an image of Raspberry Pi OS", e.Found)
}

// An UnsupportedError names something that FAT32 allows and Raspberry Pi OS
// does not use, and that is therefore not edited on a guess.
type UnsupportedError struct {
	Feature string
}

func (e *UnsupportedError) Error() string {
	return "unsupported FAT32 file system: " + e.Feature
}

// A CorruptError says where the file system contradicts itself.
type CorruptError struct {
	Structure string // "boot sector", "FAT", "directory /overlays", "file /config.txt"
	Detail    string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt FAT32 file system: %s: %s", e.Structure, e.Detail)
}

func corrupt(structure, format string, args ...any) error {
	return &CorruptError{Structure: structure, Detail: fmt.Sprintf(format, args...)}
}

package store

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrRunning says that a slot's disk is open, or that its node may be alive:
	// it was booted, and nobody has said since that it is without power
	// ([Store.Stopped]).
	ErrRunning = errors.New("the slot is running: power it off first")
	// ErrNotRunning says that a slot was not booted from the store since the
	// controller started, so that there is nothing to resume or to be Ready.
	ErrNotRunning = errors.New("the slot was not booted from here since the controller started: it must be power-cycled")
	// ErrOff says that netboot is not enabled for a slot.
	ErrOff = errors.New("netboot is off for the slot: hatchery netboot enable turns it on")
	// ErrNoRoot says that a slot has nothing to boot.
	ErrNoRoot = errors.New("nothing to boot is assigned to the slot: hatchery push or hatchery netboot import gives it something")
	// ErrNoPrevious says that there is nothing to go back to.
	ErrNoPrevious = errors.New("there is nothing to go back to")
	// ErrHasRoot says that a slot has the root that it is to go back to.
	ErrHasRoot = errors.New("the slot has that root")
	// ErrBusy says that objects are being added, so that none can be collected.
	ErrBusy = errors.New("a push or an import is under way: try again when it is over")
	// ErrMissing is what every [*MissingError] matches.
	ErrMissing = errors.New("not in the store")
	// ErrCorrupt is what every [*CorruptError] matches.
	ErrCorrupt = errors.New("corrupt")
)

// A MissingError names what a root needs and the store does not have.
type MissingError struct {
	Digest digest.Digest
	For    string // what needs it
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s needs %s, which is not in the store: push it first", e.For, e.Digest)
}

// Is makes the error match [ErrMissing].
func (e *MissingError) Is(target error) bool { return target == ErrMissing }

// A CorruptError says what is wrong with something that arrived or was kept.
type CorruptError struct {
	Name   string // of the object, or of the file
	Offset int64  // in bytes; -1 where it is the whole
	What   string
}

func (e *CorruptError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s: %s", e.Name, e.What)
	}
	return fmt.Sprintf("%s: at byte %d: %s", e.Name, e.Offset, e.What)
}

// Is makes the error match [ErrCorrupt].
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// A NoSpaceError says that something would not leave enough of the file system
// free. It matches [syscall.ENOSPC].
type NoSpaceError struct {
	Need, Free, Reserve int64 // bytes
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("not enough room: %d MiB more are needed, %d MiB are free, and %d MiB of them are kept free: hatchery netboot collect removes what no slot needs",
		mib(e.Need), mib(e.Free), mib(e.Reserve))
}

// Is makes the error match [syscall.ENOSPC].
func (e *NoSpaceError) Is(target error) bool { return target == syscall.ENOSPC }

func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

package layer

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lock keeps other processes from writing f, until it is closed. Locks are
// mandatory here, so it is on a byte that no layer reaches.
func lock(f *os.File) error {
	at := windows.Overlapped{OffsetHigh: 1 << 30}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrInUse
	}
	return err
}

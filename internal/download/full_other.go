//go:build !windows

package download

import (
	"errors"
	"syscall"
)

// diskFull says whether an error is that of a disk, or of a user's share of
// it, on which there is no room.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

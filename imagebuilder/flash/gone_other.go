//go:build !linux && !windows

package flash

import "syscall"

// goneNumbers are what macOS and its relatives answer for a device that was
// there.
var goneNumbers = []syscall.Errno{syscall.ENODEV, syscall.ENXIO}

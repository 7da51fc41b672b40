//go:build !windows

package flash_test

import "syscall"

const errGone = syscall.ENODEV

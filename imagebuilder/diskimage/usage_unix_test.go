//go:build unix

package diskimage_test

import (
	"io/fs"
	"syscall"
)

// diskUsage is how many bytes a file takes.
func diskUsage(info fs.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }

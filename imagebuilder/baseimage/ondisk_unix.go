//go:build unix

package baseimage

import (
	"os"
	"syscall"
)

// onDisk is how many bytes a file takes on the disk. What it shares with
// another file counts for both.
func onDisk(info os.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(stat.Blocks) * 512
	}
	return info.Size()
}

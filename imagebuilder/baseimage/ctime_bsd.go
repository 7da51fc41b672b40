//go:build darwin || freebsd || netbsd

package baseimage

import (
	"os"
	"syscall"
)

func changeTime(info os.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ctimespec.Nano()
	}
	return 0
}

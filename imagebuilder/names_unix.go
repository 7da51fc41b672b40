//go:build unix

package imagebuilder

import (
	"io/fs"
	"syscall"
)

// otherNames says whether a file has further names (hard links), under which
// somebody keeps its present content.
func otherNames(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink > 1
}

//go:build !linux && !darwin

package store

import (
	"io/fs"
	"math"
)

// fileSystem does not know: no controller runs here.
func fileSystem(string) (free, total int64, err error) { return math.MaxInt64, math.MaxInt64, nil }

// storedBytes takes a file without holes for granted.
func storedBytes(info fs.FileInfo) int64 { return info.Size() }

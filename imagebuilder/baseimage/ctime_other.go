//go:build !linux && !darwin && !freebsd && !netbsd

package baseimage

import "os"

// changeTime is unknown here: the modification time must do.
func changeTime(os.FileInfo) int64 { return 0 }

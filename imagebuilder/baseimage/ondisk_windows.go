package baseimage

import "os"

// onDisk is how many bytes a file has: here, its holes are not told.
func onDisk(info os.FileInfo) int64 { return info.Size() }

package baseimage

import "os"

// inode is unknown without opening the file; size and time must do.
func inode(os.FileInfo) uint64 { return 0 }

package imageregistry

import "golang.org/x/sys/unix"

// capacity is what a folder's file system has, and what of it is left, in bytes.
func capacity(dir string) (total, left int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Blocks) * int64(s.Bsize), int64(s.Bavail) * int64(s.Bsize), nil
}

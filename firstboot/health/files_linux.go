package health

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// space is how large the file system at a path is, and how much of it can be
// written without root's reserve, in bytes.
func space(path string) (size, free int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Blocks) * int64(s.Bsize), int64(s.Bavail) * int64(s.Bsize), nil
}

// A rawFile is read without Go's poller: that would wait for more.
type rawFile int

// openLog opens the kernel's log from its oldest record. A read that finds
// nothing new does not wait.
func openLog(path string) (io.ReadCloser, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	return rawFile(fd), err
}

func (f rawFile) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(f), p)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (f rawFile) Close() error { return unix.Close(int(f)) }

func overwritten(err error) bool { return errors.Is(err, unix.EPIPE) }
func nothingYet(err error) bool  { return errors.Is(err, unix.EAGAIN) }

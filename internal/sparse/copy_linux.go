package sparse

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// data copies a range inside the kernel, which shares the blocks where the
// file system can.
func (c *copier) data(off, n int64) error {
	for n > 0 {
		var copied int
		err := control(c.src, func(from int) error {
			return control(c.dst, func(to int) error {
				in, out := off, off+c.shift
				var err error
				copied, err = unix.CopyFileRange(from, &in, to, &out, int(n), 0)
				return err
			})
		})
		switch {
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL),
			errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
			// Different file systems, an old kernel, a file of a kind it cannot,
			// or a sandbox that forbids the call.
			return c.through(off, n)
		case err != nil:
			return &os.PathError{Op: "write", Path: c.dst.Name(), Err: err}
		case copied == 0:
			return &os.PathError{Op: "read", Path: c.src.Name(), Err: io.ErrUnexpectedEOF}
		}
		off, n = off+int64(copied), n-int64(copied)
	}
	return nil
}

package sparse

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func reserve(f *os.File, off, n int64) error {
	err := control(f, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, off, n) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("cannot reserve room in %s: %w (%w)", f.Name(), ErrUnsupported, err)
	}
	return &os.PathError{Op: "reserve room in", Path: f.Name(), Err: err}
}

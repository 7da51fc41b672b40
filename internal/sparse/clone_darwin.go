package sparse

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func clone(dst, src *os.File) error {
	return fmt.Errorf("cannot clone %s into an open file: %w", src.Name(), ErrUnsupported)
}

func clonePath(dst string, src *os.File) error {
	err := control(src, func(fd int) error { return unix.Fclonefileat(fd, unix.AT_FDCWD, dst, 0) })
	switch {
	case err == nil:
		return os.Chmod(dst, 0o600)
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("cannot clone %s to %s: %w (%w)", src.Name(), dst, ErrUnsupported, err)
	}
	return &os.PathError{Op: "clone", Path: dst, Err: err}
}

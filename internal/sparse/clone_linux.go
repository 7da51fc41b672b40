package sparse

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func clone(dst, src *os.File) error {
	err := control(src, func(from int) error {
		return control(dst, func(to int) error { return unix.IoctlFileClone(to, from) })
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EXDEV),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("cannot clone %s to %s: %w (%w)", src.Name(), dst.Name(), ErrUnsupported, err)
	}
	return fmt.Errorf("cannot clone %s to %s: %w", src.Name(), dst.Name(), err)
}

func clonePath(dst string, src *os.File) error {
	f, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = clone(f, src)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(dst)
	}
	return err
}

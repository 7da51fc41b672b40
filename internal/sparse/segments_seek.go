//go:build linux || darwin || freebsd

package sparse

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// nextData gives the first range at or after off that holds data; data == end
// means that there is none.
func nextData(f *os.File, off, end int64) (data, hole int64, err error) {
	data, err = seek(f, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return end, end, nil // nothing but a hole up to the file's end
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP):
		return off, end, nil // this file system does not tell
	case err != nil:
		return 0, 0, err
	}
	if data >= end {
		return end, end, nil
	}
	hole, err = seek(f, data, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	if hole <= data {
		hole = end // a file that changes under us must not make this spin
	}
	return data, hole, nil
}

func seek(f *os.File, off int64, whence int) (int64, error) {
	var pos int64
	err := control(f, func(fd int) error {
		var err error
		pos, err = unix.Seek(fd, off, whence)
		return err
	})
	if err != nil {
		return 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	return pos, nil
}

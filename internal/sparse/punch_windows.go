package sparse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

func punchHole(f *os.File, off, n int64) error {
	// FILE_ZERO_DATA_INFORMATION: from, and the first byte beyond. On a file
	// that is not sparse it writes zeros, which is right as well.
	var in [16]byte
	binary.LittleEndian.PutUint64(in[0:], uint64(off))
	binary.LittleEndian.PutUint64(in[8:], uint64(off+n))
	return deviceControl(f, windows.FSCTL_SET_ZERO_DATA, in[:])
}

// MarkSparse tells the file system that zeros in f need no space. Only
// Windows has to be told.
func MarkSparse(f *os.File) error {
	return deviceControl(f, windows.FSCTL_SET_SPARSE, nil)
}

func deviceControl(f *os.File, code uint32, in []byte) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = raw.Control(func(fd uintptr) {
		var first *byte
		if len(in) > 0 {
			first = &in[0]
		}
		var returned uint32
		callErr = windows.DeviceIoControl(windows.Handle(fd), code, first, uint32(len(in)), nil, 0, &returned, nil)
	})
	if err == nil {
		err = callErr
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, windows.ERROR_INVALID_FUNCTION), errors.Is(err, windows.ERROR_NOT_SUPPORTED):
		return fmt.Errorf("cannot make %s sparse: %w (%w)", f.Name(), ErrUnsupported, err)
	}
	return &os.PathError{Op: "make sparse", Path: f.Name(), Err: err}
}

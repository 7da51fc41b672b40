package sparse

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func punchHole(f *os.File, off, n int64) error {
	// fpunchhole_t is {u32 flags, u32 reserved, i64 offset, i64 length}: the
	// beginning of fstore_t field by field, so that its call serves both.
	arg := unix.Fstore_t{Offset: off, Length: n}
	err := control(f, func(fd int) error {
		return unix.FcntlFstore(uintptr(fd), unix.F_PUNCHHOLE, &arg)
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY):
		// EINVAL: APFS wants whole blocks.
		return fmt.Errorf("cannot punch a hole into %s: %w (%w)", f.Name(), ErrUnsupported, err)
	}
	return &os.PathError{Op: "punch hole", Path: f.Name(), Err: err}
}

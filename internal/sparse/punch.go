package sparse

import (
	"errors"
	"fmt"
	"os"
)

// PunchHole gives back the space of the whole blocks between off and off+n;
// all of the range reads as zeros afterwards, and the file's length stays. The error matches
// [ErrUnsupported] where the system cannot; the file is untouched then.
func PunchHole(f *os.File, off, n int64) error {
	if n <= 0 {
		return nil
	}
	return punchHole(f, off, n)
}

// Zero makes a range of f read as zeros: as a hole where the system can, else
// by writing zeros. A range past the file's end does not make it longer.
func Zero(f *os.File, off, n int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if n = min(n, info.Size()-off); n <= 0 {
		return nil
	}
	err = PunchHole(f, off, n)
	if !errors.Is(err, ErrUnsupported) {
		return err
	}
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:part], off); err != nil {
			return fmt.Errorf("cannot write zeros: %w", err)
		}
		off, n = off+part, n-part
	}
	return nil
}

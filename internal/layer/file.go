package layer

import (
	"errors"
	"io"
	"os"

	"hatchery/internal/sparse"
)

// file is what a layer asks of the file it lies in. Tests put in one that
// remembers what was durable when.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	// Sync returns when all writes before it are durable.
	Sync() error
	// Punch gives a range back to the file system, if it can.
	Punch(off, n int64) error
	// Chmod makes the file read-only once sealed.
	Chmod(mode os.FileMode) error
	Name() string
	// OS is the file as the operating system knows it, nil if it does not:
	// it can copy ranges without us.
	OS() *os.File
}

type osFile struct{ *os.File }

func (f osFile) OS() *os.File { return f.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) Sync() error { return syncData(f.File) }

func (f osFile) Punch(off, n int64) error {
	err := sparse.PunchHole(f.File, off, n)
	if errors.Is(err, sparse.ErrUnsupported) {
		return nil // the blocks are used again some day
	}
	return err
}

package imagebuilder

import (
	"errors"
	"io"
	"io/fs"

	"hatchery/imagebuilder/release"
	"hatchery/internal/ext4"
)

// A disk is what an image's bytes are read from: a base, or a layer over it.
type disk interface {
	io.ReaderAt
	Size() int64
}

// A device is a disk that is written to: a layer.
type device interface {
	disk
	io.WriterAt
}

// rootReader shows a root file system to the release's quirks.
type rootReader struct{ *ext4.FS }

var _ release.Root = rootReader{}

func (r rootReader) ReadDir(path string) ([]string, error) {
	entries, err := r.FS.ReadDir(path)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, nil
}

func (r rootReader) Lstat(path string) (fs.FileMode, error) {
	info, err := r.FS.Lstat(path)
	return info.Mode, err
}

// baseFault says whether an error is the base image's: its partitions or file
// systems are not what a Raspberry Pi OS image has, or are damaged. Otherwise
// the disk, or hatchery, is to blame.
func baseFault(err error) bool {
	var (
		unsupported *ext4.UnsupportedFeatureError
		corrupt     *ext4.CorruptError
		unknown     *release.UnknownError
	)
	return errors.As(err, &unsupported) || errors.As(err, &corrupt) || errors.As(err, &unknown) ||
		errors.Is(err, ext4.ErrNotExt4) || errors.Is(err, ext4.ErrDirtyJournal) || errors.Is(err, ext4.ErrNotClean)
}

// Package imagefile is image files as people have them, as sources of what is
// written to a card: raw or compressed, with a block map beside them or
// without.
//
// A compressed image is decompressed as it is written, and never put into a
// file. Where a block map says what matters, only that is given; without one,
// a raw image's partition table and file systems say it, and a compressed
// image is given whole.
package imagefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"hatchery/imagebuilder/filekind"
	"hatchery/imagebuilder/flash"
	"hatchery/internal/progress"
)

// A Source is an open image file. It is an [io.ReaderAt] too where the image
// can be read anywhere and nothing has to be checked on the way: a raw image
// whose block map is hatchery's, or one without.
type Source interface {
	flash.Source
	io.Closer
	// Name is the file's, without its folders.
	Name() string
	// BlockMap is the path of the block map in use; "" is none.
	BlockMap() string
	// Warnings are what a user should know before the card is written, each a
	// sentence without its full stop.
	Warnings() []string
}

// Options say how an image is opened. The zero value is good for most.
type Options struct {
	// BlockMap is the path of the image's block map (.bmap); "" looks beside
	// the image.
	BlockMap string
	// NoBlockMap takes no block map, not even one that lies beside the image.
	NoBlockMap bool
	// Progress is told of reading that goes before the writing: a .gz, or a
	// .zst that does not say how large its content is, is read through once
	// where it comes without a block map. nil tells nobody.
	Progress progress.Reporter
	// Memory is what reading may take, in bytes, about; 0 is [DefaultMemory].
	Memory int64
}

// DefaultMemory is what reading an image takes at most, about, in bytes: a
// window for the largest dictionary that the presets of xz use (64 MiB, as
// `xz -9` has it), and pieces that come before their turn. Only .zst files with
// windows larger than `zstd -19` makes take more, up to maxZstdWindow.
const DefaultMemory = 96 << 20

// An InputError is a mistake in what the user gave, or damage to it: the file
// is not there, is no image, is cut short, or its block map is another's.
type InputError struct {
	Path string // of the image, as it was given
	Err  error
}

func (e *InputError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap gives the error without the file's name.
func (e *InputError) Unwrap() error { return e.Err }

// A ChecksumError says which range of an image is not what its block map says.
type ChecksumError struct {
	BlockMap       string // its path
	Type           string // of the checksum: "sha1"
	Offset, Length int64  // in the image, in bytes
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("the %d bytes at offset %d do not match their %s in %s: the image is damaged, or the map is another image's; "+
		"download both again, or do without the map (--no-bmap)", e.Length, e.Offset, e.Type, e.BlockMap)
}

// Remedies.
const (
	again      = "download it again"
	withoutMap = "it is another image's or an old one: get the one that belongs to the image, or do without (--no-bmap)"
)

// Open opens an image file by what its first bytes say that it is: a raw
// image, or one in .xz, .gz, .zst or .zip. The error is an [*InputError] where
// the file or its block map cannot be used.
func Open(ctx context.Context, path string, o Options) (source Source, err error) {
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	f, info, err := openRegular(path)
	if err != nil {
		return nil, &InputError{path, err}
	}
	i := &image{path: path, f: f, size: info.Size(), info: info, options: o}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	head := make([]byte, filekind.HeadSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	kind := filekind.Of(head[:n])
	switch {
	case !kind.Image():
		return nil, i.bad("it %s", kind.Is())
	case kind.Format == filekind.Raw:
		return i.openRaw(ctx, head[:n])
	}
	return i.openPacked(ctx, kind.Format)
}

// openRegular opens a file that can be read anywhere.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	// Before opening: to open a pipe would wait for somebody to write to it.
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, bare(err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, notRegular(info)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, bare(err)
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = notRegular(info)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// bare is a system's error without the file's name, which stands before it.
func bare(err error) error {
	var named *fs.PathError
	if errors.As(err, &named) {
		return named.Err
	}
	return err
}

func notRegular(info fs.FileInfo) error {
	if info.IsDir() {
		return errors.New("it is a folder, and an image file is wanted")
	}
	return fmt.Errorf("it is no regular file (%v), and an image file is wanted", info.Mode().Type())
}

// image is what all image files have.
type image struct {
	path    string
	f       *os.File
	size    int64 // of the file
	info    fs.FileInfo
	options Options
	contents
	warnings []string
}

// Name implements [Source].
func (i *image) Name() string { return filepath.Base(i.path) }

// BlockMap implements [Source].
func (i *image) BlockMap() string { return i.mapPath }

// Warnings implements [Source].
func (i *image) Warnings() []string { return i.warnings }

// Close closes the file. Pieces must have returned.
func (i *image) Close() error { return i.f.Close() }

func (i *image) warn(format string, args ...any) {
	i.warnings = append(i.warnings, fmt.Sprintf(format, args...))
}

func (i *image) bad(format string, args ...any) error {
	return &InputError{i.path, fmt.Errorf(format, args...)}
}

// changed says that somebody wrote to the file since it was opened.
func (i *image) changed() bool {
	info, err := i.f.Stat()
	return err == nil && (info.Size() != i.info.Size() || !info.ModTime().Equal(i.info.ModTime()))
}

// Unchanged implements [flash.Watched], by the file's size and time.
func (i *image) Unchanged() error {
	if i.changed() {
		return fmt.Errorf("%s: %w", i.path, errChanged)
	}
	return nil
}

package baseimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/filekind"
	"hatchery/internal/progress"
)

// A source is a file that an image comes from.
type source struct {
	cache  *Cache
	name   string // as the user wrote it, as far as it may be shown
	url    string // as the user wrote it, never to be shown; empty for a local file
	digest digest.Digest
	size   int64    // 0 where it is unknown
	image  unpacked // what is to come out of it, as far as that is known
	report progress.Reporter

	// Of a local file:
	path  string
	state fileState
}

// base is the short name for people.
func (s *source) base() string {
	if s.url != "" {
		return base(s.name)
	}
	return filepath.Base(s.path)
}

// base is the last part of a source's name.
func base(name string) string {
	if isURL(name) {
		return path.Base(name)
	}
	return filepath.Base(name)
}

// settled is how long a file must have been left alone before its recorded
// digest is believed: within the clock's resolution of file systems (2 s on
// FAT) a second change would not show in its time.
const settled = 2 * time.Second

// identify finds the digest of a local file, and compares it with the one
// that is wanted, if any.
func (s *source) identify(ctx context.Context, want digest.Digest) error {
	var err error
	if s.path, err = filepath.Abs(s.name); err != nil {
		return err
	}
	f, info, err := openRegular(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	s.state = stateOf(info)

	place := s.cache.record("file", digest.FromString(s.path).Encoded())
	var r fileRecord
	if readRecord(place, &r) && r.Format == recordFormat && r.Path == s.path && r.State == s.state &&
		r.Checked-s.state.lastChange() > int64(s.cache.settled) && r.Digest.Validate() == nil {
		s.digest = r.Digest
	} else {
		checked := time.Now()
		task := s.report.Begin("verify "+s.base(), s.state.Size)
		s.digest, err = hashFile(ctx, f, task)
		task.End(err)
		if err != nil {
			return err
		}
		if err := s.unchanged(f); err != nil {
			return err
		}
		r = fileRecord{Format: recordFormat, Path: s.path, State: s.state, Digest: s.digest, Checked: checked.UnixNano()}
		if err := writeRecord(place, r); err != nil {
			return err
		}
	}
	if want != "" && s.digest != want {
		head := make([]byte, filekind.HeadSize)
		n, _ := f.ReadAt(head, 0)
		return wrongDigest(want, s.digest, head[:n])
	}
	if s.size > 0 && s.size != s.state.Size {
		return inputErrorf("it has %d bytes, but %d are expected", s.state.Size, s.size)
	}
	s.size = s.state.Size
	return nil
}

func wrongDigest(want, got digest.Digest, head []byte) error {
	hint := "download it again, or correct sha256 (it is that of the file named, not of the image inside)"
	if k := filekind.Of(head); !k.Image() {
		hint = "it " + k.Is() + ": look at where it came from"
	}
	return inputErrorf("wrong sha256: expected %s, got %s; %s", want.Encoded(), got.Encoded(), hint)
}

// checkImage compares the image that came out of the source with the one that
// is expected.
func (s *source) checkImage(got unpacked) error {
	switch want := s.image; {
	case want.size > 0 && got.size != want.size:
		return wrongImageSize(want.size, got.size)
	case want.digest != "" && got.digest != want.digest:
		return inputErrorf("the image in it has another sha256 than is expected: expected %s, got %s;"+
			" look at where the digests came from", want.digest.Encoded(), got.digest.Encoded())
	}
	return nil
}

func wrongImageSize(want, got int64) error {
	return inputErrorf("the image in it has %d bytes, but %d are expected: look at where the numbers came from", got, want)
}

// unchanged says whether a local file is still what was hashed.
func (s *source) unchanged(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if stateOf(info) != s.state {
		return fmt.Errorf("it changed while it was read; try again once nobody writes to it")
	}
	return nil
}

func openRegular(name string) (*os.File, os.FileInfo, error) {
	// Before opening: to open a pipe would wait for somebody to write to it.
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		return nil, nil, inputErrorf("it is no regular file (%v)", info.Mode().Type())
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(name)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil, &InputError{err}
	}
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

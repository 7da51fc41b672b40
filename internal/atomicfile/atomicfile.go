// Package atomicfile writes files that appear whole or not at all: beside
// their place, synced, then renamed into it.
package atomicfile

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Suffix ends the name of every file that is still being written. A file with
// this suffix that no process holds is a leftover of one that was killed.
const Suffix = ".hatchery-tmp"

// A File is a file on its way to its place. Exactly one of Commit and Discard
// ends it; Discard after Commit does nothing, so that it can be deferred.
type File struct {
	*os.File
	place string
	done  bool
}

// Create begins a file that will stand at place with the given permissions.
func Create(place string, perm fs.FileMode) (*File, error) {
	dir, name := filepath.Split(place)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+name+".*"+Suffix)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(perm); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	return &File{File: f, place: place}, nil
}

// Commit syncs the file and moves it to its place.
func (f *File) Commit() error {
	if f.done {
		return nil
	}
	f.done = true
	err := f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), f.place)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cannot write %s: %w", f.place, err)
	}
	return SyncDir(filepath.Dir(f.place))
}

// Discard drops the file; what stands at its place is untouched.
func (f *File) Discard() {
	if f.done {
		return
	}
	f.done = true
	f.Close()
	os.Remove(f.Name())
}

// Write puts everything that r gives into place.
func Write(place string, r io.Reader, perm fs.FileMode) error {
	f, err := Create(place, perm)
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("cannot write %s: %w", place, err)
	}
	return f.Commit()
}

// WriteBytes puts data into place.
func WriteBytes(place string, data []byte, perm fs.FileMode) error {
	return Write(place, bytes.NewReader(data), perm)
}

// CreateOnce puts data into place if nothing is there. The error is
// fs.ErrExist where something is, however many try at once.
func CreateOnce(place string, data []byte, perm fs.FileMode) error {
	f, err := Create(place, perm)
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("cannot write %s: %w", place, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot write %s: %w", place, err)
	}
	// A second name, unlike a rename, never replaces a file.
	if err := os.Link(f.Name(), place); err != nil {
		return fmt.Errorf("cannot write %s: %w", place, err)
	}
	return SyncDir(filepath.Dir(place))
}

// RemoveLeftovers removes what killed processes left half-written in dir. The
// caller holds whatever lock keeps others from writing there now.
func RemoveLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), Suffix) && strings.HasPrefix(e.Name(), ".") {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

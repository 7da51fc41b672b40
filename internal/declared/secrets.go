package declared

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hatchery/internal/atomicfile"
)

// Secrets is the folder where the content of secrets waits for the swarm, a file
// each, for root alone.
type Secrets string

// Put lays down a secret's content.
func (s Secrets) Put(name string, content []byte) error {
	if err := s.fits(name, content); err != nil {
		return err
	}
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return fmt.Errorf("the secret %s cannot be laid down: %w", name, err)
	}
	if err := atomicfile.WriteBytes(filepath.Join(string(s), name), content, 0o600); err != nil {
		return fmt.Errorf("the secret %s cannot be laid down: %w", name, err)
	}
	return nil
}

func (s Secrets) fits(name string, content []byte) error {
	switch {
	case !objectName.MatchString(name) || len(name) > maxName:
		return fmt.Errorf("%.70q is no name of a secret", name)
	case len(content) == 0:
		return fmt.Errorf("the secret %s is empty, and a swarm takes none that is", name)
	case len(content) > MaxSecret:
		return fmt.Errorf("the secret %s has more than the %d bytes that a swarm takes", name, MaxSecret)
	}
	return nil
}

// Get is a secret's content; the error is fs.ErrNotExist where none waits.
func (s Secrets) Get(name string) ([]byte, error) {
	if !objectName.MatchString(name) {
		return nil, fmt.Errorf("%.70q is no name of a secret", name)
	}
	f, err := os.Open(filepath.Join(string(s), name))
	if err != nil {
		return nil, fmt.Errorf("the secret %s: %w", name, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, MaxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("the secret %s: %w", name, err)
	}
	return content, s.fits(name, content)
}

// goner begins the name of a file that is being deleted: no secret's begins so.
const goner = ".gone-"

// Delete has a secret's content gone from the disk before it returns. It is written
// over first: that takes it off where the disk writes in place. On a card, which
// writes elsewhere, what was there may be read for a while by whoever takes the card
// apart.
func (s Secrets) Delete(name string) error {
	path, gone := filepath.Join(string(s), name), filepath.Join(string(s), goner+name)
	// Under its own name, one that is half written over would be taken for the
	// secret after a power cut.
	err := os.Rename(path, gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = atomicfile.SyncDir(string(s))
	}
	if err == nil {
		err = s.wipe(gone)
	}
	if err != nil {
		return fmt.Errorf("the secret %s, which the swarm has, cannot be deleted: %w", name, err)
	}
	return nil
}

// wipe writes over a file and removes it.
func (s Secrets) wipe(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			// What cannot be written over goes all the same.
			_, _ = f.Write(make([]byte, info.Size()))
			_ = f.Sync()
		}
		f.Close()
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.SyncDir(string(s))
}

// Clean ends what a power cut has left half done.
func (s Secrets) Clean() error {
	entries, err := os.ReadDir(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		// Of those that begin with a dot none is a secret's.
		if strings.HasPrefix(e.Name(), goner) || strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), atomicfile.Suffix) {
			err = errors.Join(err, s.wipe(filepath.Join(string(s), e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("what is left of secrets cannot be deleted: %w", err)
	}
	return nil
}

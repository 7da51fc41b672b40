package layer

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// newJournal makes the file of a journal of the given length under a name of
// its own, and gives it; place puts it where the journal belongs.
func newJournal(path string, size int64) (j *journal, place func() error, err error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if j, err = mapJournal(f, path, size); err != nil {
		os.Remove(fresh)
		return nil, nil, err
	}
	return j, func() error { return os.Rename(fresh, path) }, nil
}

// openJournal opens a journal that is there. It gives nil where what is there
// is none, or not the one that is wanted.
func openJournal(path string, wanted func(head []byte) bool) (*journal, error) {
	// A pipe or a device in its place must not make us wait.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	head := make([]byte, journalHead)
	if n, err := f.ReadAt(head, 0); n < len(head) {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return nil, err
	}
	if !wanted(head) {
		return nil, nil
	}
	if size := info.Size(); size < leastJournal || size > mostJournal {
		return nil, &CorruptError{path, 12, fmt.Sprintf("a journal of %d bytes", size)}
	}
	j, err := mapJournal(f, path, info.Size())
	if err != nil {
		return nil, err
	}
	if err := j.find(); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// mapJournal maps a file into memory. The space is taken beforehand: a file
// system that is full would kill the process otherwise.
func mapJournal(f *os.File, path string, size int64) (*journal, error) {
	size -= size % journalRecord
	var err error
	for {
		if err = unix.Fallocate(int(f.Fd()), 0, 0, size); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: f.Name(), Err: err}
	}
	return &journal{path: path, mem: mem, close: func() error { return unix.Munmap(mem) }}, nil
}

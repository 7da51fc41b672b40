package console

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"hatchery/internal/atomicfile"
)

// Kept is how much is kept of what a console said, in bytes.
const Kept = 256 << 10

// A tail is a file that holds the end of what was written to it: Kept bytes, and
// at most as many again, which go when there is no more room.
type tail struct {
	path string
	file *os.File
	size int64
}

// open opens the file, with what an earlier service left. Others than root have
// no business in it.
func (t *tail) open() error {
	if t.file != nil {
		return nil
	}
	file, err := os.OpenFile(t.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", t.path)
	}
	if err != nil {
		file.Close()
		return err
	}
	t.file, t.size = file, info.Size()
	return nil
}

// add appends to the file.
func (t *tail) add(data []byte) error {
	if err := t.open(); err != nil {
		return err
	}
	if t.size+int64(len(data)) > 2*Kept {
		if err := t.shorten(); err != nil {
			return err
		}
	}
	n, err := t.file.Write(data)
	t.size += int64(n)
	return err
}

// shorten leaves the last Kept bytes.
func (t *tail) shorten() error {
	data, err := t.end(Kept)
	if err != nil {
		return err
	}
	t.close()
	if err := atomicfile.WriteBytes(t.path, data, 0o600); err != nil {
		return err
	}
	return t.open()
}

// end gives the last bytes, so many at most, from the beginning of a line.
func (t *tail) end(most int64) ([]byte, error) {
	if err := t.open(); err != nil {
		return nil, err
	}
	from := max(t.size-most, 0)
	data := make([]byte, t.size-from)
	n, err := t.file.ReadAt(data, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	data = data[:n]
	if from > 0 {
		// A sequence that was cut in two would be shown as something else.
		if i := bytes.IndexByte(data[:min(n, 4<<10)], '\n'); i >= 0 {
			data = data[i+1:]
		}
	}
	return data, nil
}

// length is how much is kept, in bytes.
func (t *tail) length() int64 {
	if t.file != nil {
		return min(t.size, Kept)
	}
	info, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) || err != nil {
		return 0
	}
	return min(info.Size(), Kept)
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}

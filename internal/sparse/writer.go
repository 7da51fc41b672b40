package sparse

import (
	"errors"
	"os"
	"sync"
)

// A Writer fills a fresh file and leaves runs of zeros as holes. WriteAt may
// be called from several goroutines for ranges that do not overlap; Write is
// for one. [Writer.Finish] ends it.
type Writer struct {
	f *os.File

	mu  sync.Mutex
	end int64 // the first byte beyond everything that was written
	pos int64 // where Write goes on
}

// NewWriter begins to fill f, which must be empty.
func NewWriter(f *os.File) (*Writer, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != 0 {
		return nil, &os.PathError{Op: "fill", Path: f.Name(), Err: errors.New("the file is not empty")}
	}
	if err := MarkSparse(f); err != nil && !errors.Is(err, ErrUnsupported) {
		return nil, err
	}
	return &Writer{f: f}, nil
}

// WriteAt implements [io.WriterAt].
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if err := writeData(w.f, p, off); err != nil {
		return 0, err
	}
	w.mu.Lock()
	w.end = max(w.end, off+int64(len(p)))
	w.mu.Unlock()
	return len(p), nil
}

// Write implements [io.Writer]: it goes on where the last Write ended.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.WriteAt(p, w.pos)
	w.pos += int64(n)
	return n, err
}

// Finish makes the file as long as what was written, since zeros at the end
// left no trace so far, and gives that length. It neither syncs nor closes.
func (w *Writer) Finish() (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end, w.f.Truncate(w.end)
}

package layer

import (
	"fmt"
	"syscall"

	"hatchery/internal/sparse"
)

// ErrQuota says that a write would store more than the layer may; it is a
// [syscall.ENOSPC].
var ErrQuota = fmt.Errorf("the layer's quota is used up: %w", error(syscall.ENOSPC))

// Limit sets how many bytes of data the layer may store in its file, 0 for any
// number. A write that would store more is refused ([ErrQuota]), and nothing of
// it is written; writing over what is stored goes on, and discarding. What is
// replaced stays until the next state is durable, and counts as well: besides
// the limit, it may take spare bytes, or the length of one write; then the layer
// flushes. The map is not counted: that is half a MiB, and less than a
// hundredth of the data.
func (l *Layer) Limit(bytes, spare int64) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.limit, l.spare, l.space.limit = 0, 0, 0
	if bytes > 0 {
		l.limit = max(bytes/BlockSize, 1)
		l.spare = max(spare, 0) / BlockSize
		l.space.limit = firstBlock + l.limit + l.spare
	}
}

// A Usage says what a layer takes and has done.
type Usage struct {
	Data     int64 // bytes of data that are stored for the present content
	Replaced int64 // bytes of data that are stored besides, until the next state is durable
	Map      int64 // bytes of the file that say where the data is
	Unsaved  int64 // bytes of the device that changed since the last flush that is done
	Written  int64 // bytes that were written to the file since it was opened
}

// Usage gives what the layer takes and has done.
func (l *Layer) Usage() Usage {
	l.writing.Lock()
	defer l.writing.Unlock()
	used := l.space.end - l.space.blocks
	return Usage{
		Data:     l.table.stored * BlockSize,
		Replaced: l.replaced * BlockSize,
		Map:      (used - l.table.stored - l.replaced) * BlockSize,
		Unsaved:  (l.table.changed + l.saving) * BlockSize,
		Written:  l.written.Load(),
	}
}

// mostAtOnce is how many bytes may be admitted in one go.
func (l *Layer) mostAtOnce() int64 {
	if l.journal == nil {
		return MaxSize
	}
	return (l.journal.most() - 1) * BlockSize // wherever they begin
}

// admit makes sure that the layer can be written, and that the journal takes
// so many records. It may let others write, and flush.
func (l *Layer) admit(records int64) error {
	for {
		if err := l.writable(); err != nil {
			return err
		}
		if l.journal == nil {
			return l.forsake()
		}
		if l.journal.room() >= records {
			return nil
		}
		if err := l.flushAmid(); err != nil {
			return err
		}
	}
}

// admitWrite is admit for the write of p, and minds the quota.
func (l *Layer) admitWrite(p []byte, off int64) error {
	n := (off%BlockSize + int64(len(p)) + BlockSize - 1) / BlockSize
	for {
		if err := l.admit(n); err != nil {
			return err
		}
		stored := l.table.stored
		if l.limit == 0 || stored+l.replaced+n <= l.limit {
			return nil
		}
		added, again := l.wants(p, off)
		if added > 0 && stored+added > l.limit {
			return fmt.Errorf("cannot write %d bytes at %d: %d of %d bytes are stored: %w",
				len(p), off, stored*BlockSize, l.limit*BlockSize, ErrQuota)
		}
		if l.replaced == 0 || stored+l.replaced+added+again <= l.limit+l.spare {
			return nil
		}
		if err := l.flushAmid(); err != nil {
			return err
		}
	}
}

// wants tells how many blocks a write would store that are not stored yet, and
// how many that are, but need a new place.
func (l *Layer) wants(p []byte, off int64) (added, again int64) {
	for len(p) > 0 {
		block, in := off/BlockSize, off%BlockSize
		part := p[:min(BlockSize-in, int64(len(p)))]
		place, _, mapped := l.table.find(block, 1)
		stored := mapped && place != 0
		dirty, _ := l.table.isDirty(block, 1)
		switch {
		case sparse.IsZero(part) && (len(part) == BlockSize || mapped && !stored):
		case !stored:
			added++
		case !dirty:
			again++
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return added, again
}

// flushAmid flushes for the sake of a write, which holds writing.
func (l *Layer) flushAmid() error {
	l.writing.Unlock()
	defer l.writing.Lock()
	return l.Flush()
}

// forsake makes a journal void that was kept when the layer was open last, and
// is not now: it knows nothing of what will be written.
func (l *Layer) forsake() error {
	if l.running == (running{}) {
		return nil
	}
	return l.writeRunning(running{})
}

// Written is [Usage.Written], without waiting for a write under way.
func (l *Layer) Written() int64 { return l.written.Load() }

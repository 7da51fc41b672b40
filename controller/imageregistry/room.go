package imageregistry

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
)

// errFull is what writing ends with where there is no room.
var errFull = errors.New("the registry is full")

// lookEvery is after how much that was written the file system is asked, in bytes.
const lookEvery = 8 << 20

// A room is a folder with a quota on a card of which a part stays free.
type room struct {
	dir        string
	most, free int64

	mu      sync.Mutex
	used    int64
	unasked int64 // written since the file system was asked
}

func newRoom(dir string, most, free int64) (*room, error) {
	total, _, err := capacity(dir)
	if err != nil {
		return nil, err
	}
	if most <= 0 {
		most = total / 4
	}
	if free <= 0 {
		free = min(total/10, 1<<30)
	}
	r := &room{dir: dir, most: most, free: free, unasked: lookEvery}
	return r, r.count()
}

// count looks how much there is.
func (r *room) count() error {
	var used int64
	err := filepath.WalkDir(r.dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err == nil {
			used += info.Size()
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.used = used
	}
	return err
}

// take is called before n bytes are written.
func (r *room) take(n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used+n > r.most {
		return fmt.Errorf("%w: it has %d MB of the %d MB that it may have", errFull, r.used>>20, r.most>>20)
	}
	if r.unasked += n; r.unasked >= lookEvery {
		if _, left, err := capacity(r.dir); err == nil && left-n < r.free {
			return fmt.Errorf("%w: the card has %d MB left, of which %d MB stay free", errFull, left>>20, r.free>>20)
		}
		r.unasked = 0
	}
	r.used += n
	return nil
}

// give is called when n bytes were removed, or not written.
func (r *room) give(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = max(0, r.used-n)
}

// over says by how much more than a part of the quota is taken, in bytes; the part is in
// percent.
func (r *room) over(percent int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := r.used - r.most/100*percent
	if _, left, err := capacity(r.dir); err == nil {
		// The same part of what there is to take from the card.
		over = max(over, r.free+(100-percent)*r.free/100-left)
	}
	return max(0, over)
}

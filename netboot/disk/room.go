package disk

import (
	"sync"
	"sync/atomic"
	"time"
)

// A room remembers what the file system has left, since that is not asked for
// each write.
type room struct {
	mu      sync.Mutex
	asked   time.Time
	written int64       // by the layer, then
	short   atomic.Bool // the file system's end comes before the quota's
}

const (
	askAfter = 1 << 20 // bytes written
	askEvery = time.Second
)

// limit tells the layer how much it may store. Whoever finds somebody else at
// it goes on, unless it is the first time.
func (d *Disk) limit(first bool) {
	if d.options.Reserve < 0 && !first {
		return
	}
	if !d.room.mu.TryLock() {
		return
	}
	defer d.room.mu.Unlock()
	written := d.layer.Written()
	if !first && written-d.room.written < askAfter && time.Since(d.room.asked) < askEvery {
		return
	}
	d.room.asked, d.room.written = time.Now(), written
	limit, spare, short := d.options.Quota, min(d.options.Quota/8, 64<<20), false
	if d.options.Reserve >= 0 {
		if left, err := d.options.Free(d.layer.Path()); err == nil {
			limit, spare, short = bound(d.options, d.layer.Usage().Data, left)
		}
	}
	d.room.short.Store(short)
	d.layer.Limit(limit, spare)
}

// bound gives what a layer may store that stores so much where so much is left.
func bound(o Options, stored, left int64) (limit, spare int64, short bool) {
	limit, spare = o.Quota, min(o.Quota/8, 64<<20)
	if limit == 0 {
		spare = 64 << 20
	}
	most := max(stored+left-o.Reserve, 1)
	if limit == 0 || most < limit {
		limit, short = most, true
		spare = min(spare, o.Reserve/4)
	}
	return limit, spare, short
}

package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/sparse"
)

// chunkBlocks is how many blocks are compared or hashed at once.
const chunkBlocks = 128

// Seal ends the writing: it drops the blocks that equal the parent's, makes
// everything durable, and makes the file read-only for good. It gives the
// layer's digest, which follows from the parent and the content alone. On a
// sealed layer it only gives the digest. Writes wait while it works; an error
// leaves the layer as after a Flush that failed.
func (l *Layer) Seal() (digest.Digest, error) {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.sealed.Load() {
		return l.digest, nil
	}
	if err := l.writable(); err != nil {
		return "", err
	}
	if err := l.seal(); err != nil {
		return "", fmt.Errorf("cannot seal %s: %w", l.file.Name(), err)
	}
	return l.digest, nil
}

func (l *Layer) seal() error {
	table, dropped, sum, err := l.canonical()
	if err != nil {
		return err
	}
	var records []record
	for r := range table.all() {
		records = append(records, r)
	}
	s, err := l.prepare(kindCheckpoint, records, table.stored)
	if err != nil {
		return err
	}
	s.slot.sealed = true
	s.slot.digest = sum
	s.block, s.slotSum = s.slot.encode(l.headerSum)
	if fatal, err := l.commit(s); err != nil {
		// The map is still the one from before: nothing was dropped yet.
		l.undo(s, fatal, err)
		return err
	}
	l.mapping.Lock()
	l.table = table
	l.mapping.Unlock()
	l.digest = bytesDigest(sum)
	l.sealed.Store(true)

	l.space.release(spansOf(l.pending)...)
	l.pending, l.replaced = nil, 0
	l.space.release(dropped...)
	l.settle(s)
	l.leaveJournal(true)
	l.trim()
	return nil
}

// Content gives the digest that Seal would give the layer now.
func (l *Layer) Content() (digest.Digest, error) {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.sealed.Load() {
		return l.digest, nil
	}
	if err := l.writable(); err != nil {
		return "", err
	}
	_, _, sum, err := l.canonical()
	if err != nil {
		return "", fmt.Errorf("cannot tell what %s holds: %w", l.file.Name(), err)
	}
	return bytesDigest(sum), nil
}

// trim gives back all that is free in the file of a layer that was sealed,
// and lets nobody open it for writing. The layer is sealed and durable by now,
// and a file system that can do neither (exFAT, say) costs space alone: so
// errors do not count.
func (l *Layer) trim() {
	if l.running != (running{}) {
		_ = l.writeRunning(running{})
	}
	if k := len(l.space.free) - 1; k >= 0 && int64(l.space.free[k].start)+int64(l.space.free[k].n) == l.space.end {
		l.space.end = int64(l.space.free[k].start)
		l.space.free = l.space.free[:k]
	}
	_ = l.file.Truncate(l.space.end * BlockSize)
	for _, hole := range l.space.free {
		_ = l.file.Punch(int64(hole.start)*BlockSize, int64(hole.n)*BlockSize)
	}
	_ = l.file.Chmod(0o400)
}

// canonical gives the map without blocks that equal the parent's, and with
// those that are all zeros as such; the blocks of the file that fall out of
// use; and the layer's digest.
func (l *Layer) canonical() (t *table, dropped []span, sum [32]byte, err error) {
	t = newTable(l.header.blocks())
	h := newHasher(&l.header)
	defer h.stop()
	below := make([]byte, chunkBlocks*BlockSize)
	for r := range l.table.all() {
		for r.count > 0 {
			n := int64(min(r.count, chunkBlocks))
			block := int64(r.block)
			if r.place == 0 && block*BlockSize >= l.header.parentSize {
				break // zeros past the parent's end: nothing differs
			}
			under := below[:n*BlockSize]
			if err := l.readParent(under, block*BlockSize); err != nil {
				return nil, nil, sum, err
			}
			own := h.buffer()[:n*BlockSize]
			if r.place == 0 {
				clear(own)
			} else if m, err := l.file.ReadAt(own, int64(r.place)*BlockSize); m < len(own) {
				return nil, nil, sum, fmt.Errorf("cannot read layer: %w", err)
			}
			// What is kept moves together at the front of own.
			kept := 0
			for i := range n {
				p := own[i*BlockSize : (i+1)*BlockSize]
				at := span{r.place + uint32(i), 1}
				if r.place == 0 {
					at.start = 0
				}
				data := r.place != 0
				switch {
				case bytes.Equal(p, under[i*BlockSize:(i+1)*BlockSize]):
					if data {
						dropped = appendSpan(dropped, at)
					}
					continue
				case data && sparse.IsZero(p):
					dropped = appendSpan(dropped, at)
					at.start, data = 0, false
				}
				t.set(block+i, 1, at.start, nil)
				h.extent(block+i, 1, data)
				if data {
					if int64(kept) != i*BlockSize {
						copy(own[kept:], p)
					}
					kept += BlockSize
				}
			}
			h.write(own[:kept])
			r.block, r.count = r.block+uint32(n), r.count-uint32(n)
			if r.place != 0 {
				r.place += uint32(n)
			}
		}
	}
	return t, dropped, h.sum(), nil
}

func appendSpan(spans []span, s span) []span {
	if k := len(spans) - 1; k >= 0 && spans[k].start+spans[k].n == s.start {
		spans[k].n += s.n
		return spans
	}
	return append(spans, s)
}

// Verify reads a sealed layer's data again and compares it with the digest:
// an error matches [ErrCorrupt] where it differs, [ErrNotSealed] where there
// is none.
func (l *Layer) Verify(ctx context.Context) error {
	if !l.sealed.Load() {
		return fmt.Errorf("cannot verify %s: %w", l.file.Name(), ErrNotSealed)
	}
	h := newHasher(&l.header)
	defer h.stop()
	for r := range l.table.all() {
		h.extent(int64(r.block), int64(r.count), r.place != 0)
		for r.place != 0 && r.count > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := int64(min(r.count, chunkBlocks))
			p := h.buffer()[:n*BlockSize]
			if m, err := l.file.ReadAt(p, int64(r.place)*BlockSize); m < len(p) {
				return fmt.Errorf("cannot read layer: %w", err)
			}
			h.write(p)
			r.place, r.count = r.place+uint32(n), r.count-uint32(n)
		}
	}
	if got := bytesDigest(h.sum()); got != l.digest {
		return &CorruptError{l.file.Name(), 0, fmt.Sprintf("its content has the digest %s, not %s", got, l.digest)}
	}
	return nil
}

// A hasher computes a layer's digest: data on a goroutine of its own, since
// that is most of the work.
type hasher struct {
	head    []byte
	extents []byte
	last    struct {
		block, n int64
		data     bool
	}
	count int64

	free chan []byte // buffers to be filled
	full chan []byte // filled ones
	data chan [32]byte
	done bool
}

func newHasher(hd *header) *hasher {
	h := &hasher{free: make(chan []byte, 3), full: make(chan []byte, 3), data: make(chan [32]byte, 1)}
	h.head = append(h.head, "hatchery layer 1\n"...)
	h.head = le.AppendUint32(h.head, BlockSize)
	h.head = le.AppendUint64(h.head, uint64(hd.size))
	h.head = le.AppendUint64(h.head, uint64(hd.parentSize))
	h.head = append(h.head, hd.parent[:]...)
	for range cap(h.free) {
		h.free <- make([]byte, chunkBlocks*BlockSize)
	}
	go func() {
		var sum hash.Hash = sha256.New()
		for p := range h.full {
			sum.Write(p)
			h.free <- p[:cap(p)]
		}
		var out [32]byte
		sum.Sum(out[:0])
		h.data <- out
	}()
	return h
}

// buffer gives room for the next data, which write hands back.
func (h *hasher) buffer() []byte { return <-h.free }

func (h *hasher) write(p []byte) { h.full <- p }

// extent says what comes next on the device.
func (h *hasher) extent(block, n int64, data bool) {
	if h.last.n > 0 && h.last.data == data && h.last.block+h.last.n == block {
		h.last.n += n
		return
	}
	h.endExtent()
	h.last.block, h.last.n, h.last.data = block, n, data
}

func (h *hasher) endExtent() {
	if h.last.n == 0 {
		return
	}
	h.count++
	h.extents = le.AppendUint64(h.extents, uint64(h.last.block))
	h.extents = le.AppendUint64(h.extents, uint64(h.last.n))
	kind := byte(0)
	if h.last.data {
		kind = 1
	}
	h.extents = append(h.extents, kind)
}

func (h *hasher) sum() [32]byte {
	h.endExtent()
	h.stop()
	data := <-h.data
	all := sha256.New()
	all.Write(h.head)
	all.Write(le.AppendUint64(nil, uint64(h.count)))
	all.Write(h.extents)
	all.Write(data[:])
	return [32]byte(all.Sum(nil))
}

// stop ends the goroutine; more calls do nothing.
func (h *hasher) stop() {
	if !h.done {
		h.done = true
		close(h.full)
	}
}

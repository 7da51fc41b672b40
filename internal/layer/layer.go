package layer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/sparse"
)

// A Parent is what a layer lies on: a base or a sealed layer. Its content
// must not change.
type Parent interface {
	io.ReaderAt
	// Size is the length of the device in bytes.
	Size() int64
	// Digest names the content: always a SHA-256.
	Digest() digest.Digest
}

// An Extent is a range of a device, in bytes.
type Extent struct {
	Offset, Length int64
	// Zero says that the range reads as zeros and that nothing is stored for it.
	Zero bool
}

// A Layer is a block device: its parent with some blocks changed. See the
// package's comment for what may be called beside what.
type Layer struct {
	header    header
	headerSum uint32
	parent    Parent
	file      file

	sealed atomic.Bool
	digest digest.Digest // once sealed

	// Locks are taken in this order.
	flushing sync.Mutex // the state on disk: generation, chain
	writing  sync.Mutex // changes of what follows, and data on its way to the file
	mapping  sync.RWMutex

	generation uint64
	chain      []segmentRef
	slotSum    uint32 // the checksum of the state's slot

	space    space
	pending  []release // free once the next state is durable
	saving   int64     // blocks of the device that the flush under way makes durable
	replaced int64     // blocks in pending, or in what the flush under way makes obsolete
	durable  bool      // the state on disk was synced, as far as we know
	found    bool      // it was there when the layer was opened
	failed   error     // why nothing can be written any more
	closed   bool
	running  running  // what the file says of its journal
	journal  *journal // nil: none is kept
	recovery Recovery
	lost     running // the journal that was not there, until its loss is accepted
	replayed int
	written  atomic.Int64 // bytes
	limit    int64        // blocks of the file in use; 0: any number
	spare    int64        // blocks beyond the limit, for what is replaced

	table *table // written under writing and mapping, read under either
}

// A release is a run of blocks that the state on disk still uses.
type release struct {
	span
	punch bool // not wanted again soon: give it back to the file system
}

// Create makes a new layer file, readable by its owner alone, over parent:
// size is the device's length in bytes, a multiple of 512 and at least the
// parent's. A parent that is a layer must be sealed, else the error matches
// [ErrNotSealed]. The file must not exist. Nothing is durable before the
// first Flush or Seal.
func Create(path string, parent Parent, size int64) (*Layer, error) {
	h, err := newHeader(parent, size)
	if err != nil {
		return nil, fmt.Errorf("cannot create the layer %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = lock(f)
	if err == nil {
		if err = sparse.MarkSparse(f); errors.Is(err, sparse.ErrUnsupported) {
			err = nil
		}
	}
	var l *Layer
	if err == nil {
		l, err = create(osFile{f}, parent, h)
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return nil, fmt.Errorf("cannot create the layer %s: %w", path, err)
	}
	return l, nil
}

func newHeader(parent Parent, size int64) (h header, err error) {
	if parent == nil {
		return h, errors.New("it has no parent")
	}
	if p, ok := parent.(*Layer); ok && !p.Sealed() {
		return h, fmt.Errorf("parent: %w", ErrNotSealed)
	}
	if size <= 0 || size > MaxSize || size%512 != 0 {
		return h, fmt.Errorf("impossible size: %d bytes", size)
	}
	h = header{size: size, parentSize: parent.Size()}
	if h.parentSize > size {
		return h, fmt.Errorf("its %d bytes are less than the parent's %d", size, h.parentSize)
	}
	h.parent, err = digestBytes(parent.Digest())
	return h, err
}

func create(f file, parent Parent, h header) (*Layer, error) {
	first := slot{generation: 1}
	l := newLayer(f, parent, h)
	l.generation = first.generation
	l.space.end = firstBlock
	p := make([]byte, firstBlock*BlockSize)
	copy(p, h.encode())
	var block []byte
	block, l.slotSum = first.encode(l.headerSum)
	copy(p[first.block()*BlockSize:], block)
	if err := l.write(p, 0); err != nil {
		return nil, err
	}
	return l, nil
}

func newLayer(f file, parent Parent, h header) *Layer {
	return &Layer{header: h, headerSum: h.sum(), parent: parent, file: f, table: newTable(h.blocks())}
}

// blocks is the number of blocks of the device, the last of which may be
// longer than the device.
func (h *header) blocks() int64 { return (h.size + BlockSize - 1) / BlockSize }

func digestBytes(d digest.Digest) (out [32]byte, err error) {
	if err := d.Validate(); err != nil {
		return out, fmt.Errorf("digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return out, fmt.Errorf("digest %s is not a SHA-256", d)
	}
	p, err := hex.DecodeString(d.Encoded())
	copy(out[:], p)
	return out, err
}

func bytesDigest(p [32]byte) digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, p[:])
}

// Size gives the length of the device in bytes.
func (l *Layer) Size() int64 { return l.header.size }

// Parent gives what the layer lies on.
func (l *Layer) Parent() Parent { return l.parent }

// Sealed says whether the layer is sealed.
func (l *Layer) Sealed() bool { return l.sealed.Load() }

// Digest names the content of a sealed layer; it is "" before.
func (l *Layer) Digest() digest.Digest {
	if !l.sealed.Load() {
		return ""
	}
	return l.digest
}

// Path gives the name under which the layer's file was opened.
func (l *Layer) Path() string { return l.file.Name() }

// DataSize gives how many bytes of data the layer stores.
func (l *Layer) DataSize() int64 {
	l.mapping.RLock()
	defer l.mapping.RUnlock()
	return l.table.stored * BlockSize
}

// Extents gives what the layer itself changes, sorted and merged.
func (l *Layer) Extents() []Extent {
	l.mapping.RLock()
	defer l.mapping.RUnlock()
	var out []Extent
	for r := range l.table.all() {
		e := Extent{int64(r.block) * BlockSize, int64(r.count) * BlockSize, r.place == 0}
		e.Length = min(e.Length, l.header.size-e.Offset)
		if k := len(out) - 1; k >= 0 && out[k].Offset+out[k].Length == e.Offset && out[k].Zero == e.Zero {
			out[k].Length += e.Length
		} else {
			out = append(out, e)
		}
	}
	return out
}

// Close flushes what was written since the last Flush, and closes the file.
// Where the flush fails, a journal stays for the next [OpenJournaled].
func (l *Layer) Close() error {
	err := l.flush()
	if errors.Is(err, os.ErrClosed) {
		return err
	}
	l.flushing.Lock()
	defer l.flushing.Unlock()
	if cerr := l.end(func() bool { return err == nil && l.table.changed == 0 }); err == nil {
		err = cerr
	}
	return err
}

// Abandon closes the file without a flush: what was written since the last is
// lost. It is for layers that will be removed.
func (l *Layer) Abandon() error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	return l.end(func() bool { return true })
}

// end closes the file; void says whether what the journal has is void.
func (l *Layer) end(void func() bool) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mapping.Lock()
	defer l.mapping.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	l.closed = true
	l.leaveJournal(void())
	return l.file.Close()
}

// writable gives why the layer cannot be written; called with writing held.
func (l *Layer) writable() error {
	switch {
	case l.closed:
		return os.ErrClosed
	case l.sealed.Load():
		return ErrSealed
	case l.failed != nil:
		return fmt.Errorf("%w: %w", ErrFailed, l.failed)
	}
	return nil
}

// An old is a run of the file that a run of the device was mapped to.
type old struct {
	block int64
	span
}

// eachFreed gives a run of the file in parts that no state on disk uses, fresh,
// and parts that one uses. It must come before the blocks are marked.
func (l *Layer) eachFreed(o old, part func(part span, fresh bool) error) error {
	for o.n > 0 {
		fresh, n := l.table.isDirty(o.block, int64(o.n))
		if err := part(span{o.start, uint32(n)}, fresh); err != nil {
			return err
		}
		o.block, o.start, o.n = o.block+n, o.start+uint32(n), o.n-uint32(n)
	}
	return nil
}

// later frees blocks once the next state is durable.
func (l *Layer) later(r release) {
	l.pending = append(l.pending, r)
	l.replaced += int64(r.n)
}

// setMap maps blocks anew and gives what they were mapped to.
func (l *Layer) setMap(block, n int64, place uint32) (freed []old) {
	l.mapping.Lock()
	defer l.mapping.Unlock()
	l.table.set(block, n, place, func(block int64, s span) { freed = append(freed, old{block, s}) })
	return freed
}

// remap maps blocks anew and frees what they were mapped to: at once where no
// state on disk uses it. The journal comes first: after it, nobody looks for
// the blocks' content where it was.
func (l *Layer) remap(block, n int64, place uint32, punch bool) error {
	l.lost = running{}
	if l.journal != nil {
		if err := l.journal.mapped(block, n, place, punch); err != nil {
			return err
		}
	}
	var err error
	for _, o := range l.setMap(block, n, place) {
		ferr := l.eachFreed(o, func(part span, fresh bool) error {
			if !fresh {
				l.later(release{part, punch})
				return nil
			}
			defer l.space.release(part)
			if punch {
				return l.file.Punch(int64(part.start)*BlockSize, int64(part.n)*BlockSize)
			}
			return nil
		})
		if err == nil {
			err = ferr
		}
	}
	l.table.mark(block, n)
	return err
}

// write writes to the file, and counts.
func (l *Layer) write(p []byte, at int64) error {
	n, err := l.file.WriteAt(p, at)
	l.written.Add(int64(n))
	return err
}

// spansOf gives the blocks of releases.
func spansOf(rs []release) []span {
	out := make([]span, len(rs))
	for i, r := range rs {
		out[i] = r.span
	}
	return out
}

// punchable gives what of the releases is to be given back, neighbours joined.
func punchable(rs []release) []span {
	var out []span
	for _, r := range rs {
		if r.punch {
			out = append(out, r.span)
		}
	}
	slices.SortFunc(out, byStart)
	return mergeSpans(out)
}

package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"syscall"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/filelock"
	"hatchery/internal/progress"
)

const (
	partSuffix     = ".part"
	progressSuffix = ".progress"
	// markEvery is how much arrives, at least, between two marks, in bytes, and
	// markPause how long what arrives has the disk for itself meanwhile.
	markEvery = 8 << 20
	markPause = time.Second
)

// Incoming is one push that adds objects, piece by piece: what arrived of one
// that was interrupted stays for the next. There is one at a time.
type Incoming struct {
	s       *Store
	release []func()
}

// Incoming begins a push; it waits for one that is under way, which is told to
// the reporter. Close ends it.
func (s *Store) Incoming(ctx context.Context, reporter progress.Reporter) (*Incoming, error) {
	unlock, err := filelock.Lock(ctx, s.path("incoming.lock"), "wait for another push to this controller", reporter)
	if err != nil {
		return nil, err
	}
	release, err := s.Hold(ctx)
	if err != nil {
		unlock()
		return nil, err
	}
	return &Incoming{s, []func(){release, unlock}}, nil
}

// Close ends the push.
func (in *Incoming) Close() {
	for _, release := range in.release {
		release()
	}
	in.release = nil
}

// Arrived gives from which byte on an object is still wanted: its size where
// the store has it whole.
func (in *Incoming) Arrived(o Object) (int64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	if in.s.Has(o.Kind, o.Digest) {
		return o.Size, nil
	}
	m, _, err := in.s.readMark(o)
	return m.end, err
}

// Room says whether objects fit, which the store does not have: the error
// matches [syscall.ENOSPC] where they do not. What arrived in part of others is
// removed where that helps.
func (in *Incoming) Room(objects []Object) error {
	s := in.s
	wanted := map[string]bool{}
	var need int64
	for _, o := range objects {
		if err := o.check(); err != nil {
			return err
		}
		if s.Has(o.Kind, o.Digest) {
			continue
		}
		wanted[o.Digest.Encoded()] = true
		have := s.storedAt(s.incomingPath(o.Digest, partSuffix))
		need += max(o.Stored-have, 0)
	}
	if len(wanted) == 0 {
		return nil
	}
	if err := s.room(need); !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	parts, err := s.partials()
	if err != nil {
		return err
	}
	for _, e := range parts {
		if !wanted[e.digest.Encoded()] {
			if err := s.removePart(e.digest); err != nil {
				return err
			}
		}
	}
	return s.room(need)
}

// A Part is an object that is arriving. Its methods are for one goroutine.
type Part struct {
	s      *Store
	o      Object
	f      *os.File
	marks  *os.File
	w      *filler
	marked int64 // where the last mark was set, or is being set
	spare  int64 // which of the two places for marks is free
	failed bool  // what was written is not what was hashed
	// resumed says that the sum begins with what another wrote: the file may
	// have changed since.
	resumed bool
	closed  bool
	// marking gets the outcome of a mark that is being set; nil: none is.
	marking chan error
	rested  time.Time // the last one was set
}

// Part takes up an object where it was left.
func (in *Incoming) Part(o Object) (*Part, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	p, err := in.s.part(o)
	if err != nil {
		return nil, fmt.Errorf("cannot take in %s: %w", o, err)
	}
	return p, nil
}

func (s *Store) part(o Object) (*Part, error) {
	p := &Part{s: s, o: o}
	last, place, err := s.readMark(o)
	if err != nil {
		return nil, err
	}
	if place < 0 {
		if err := s.removePart(o.Digest); err != nil {
			return nil, err
		}
	}
	if p.f, err = os.OpenFile(s.incomingPath(o.Digest, partSuffix), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if p.marks, err = os.OpenFile(s.incomingPath(o.Digest, progressSuffix), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		p.f.Close()
		return nil, err
	}
	p.w = s.newFiller(p.f, o.String(), o.Kind == Base)
	if place >= 0 {
		p.spare = 1 - place
		// What was written after the mark is in no sum.
		if err = p.f.Truncate(last.end); err == nil {
			err = p.w.resume(last.sum, last.end)
		}
		p.marked, p.resumed = last.end, true
	} else {
		// At its full length, so that a mark costs no more than its own block.
		if err = p.marks.Truncate(2 * markSize); err == nil {
			err = atomicfile.SyncDir(s.path("incoming"))
		}
	}
	if err != nil {
		p.failed = true
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Arrived gives how many bytes of the object are there, from its start.
func (p *Part) Arrived() int64 { return p.w.end }

// Write puts a piece of the object at off, in order; what lies between the
// pieces is zeros. After an error the part can only be closed.
func (p *Part) Write(ctx context.Context, data []byte, off int64) error {
	if off < p.w.end || off > p.o.Size-int64(len(data)) {
		return &CorruptError{p.o.String(), off, fmt.Sprintf("%d bytes that do not belong here: %d of %d are there", len(data), p.w.end, p.o.Size)}
	}
	if err := p.w.write(ctx, data, off); err != nil {
		p.failed = true
		return err
	}
	if p.w.end-p.marked < markEvery {
		return nil
	}
	if p.marking != nil {
		// The disk is still at the mark before: what arrives goes on beside it.
		select {
		case err := <-p.marking:
			p.marking, p.rested = nil, time.Now()
			if err != nil {
				p.failed = true
				return err
			}
		default:
			return nil
		}
	}
	if !p.rested.IsZero() && time.Since(p.rested) < markPause {
		return nil
	}
	return p.mark()
}

// mark begins to make durable what arrived, and to remember it.
func (p *Part) mark() error {
	sum, err := p.w.state()
	if err != nil {
		return err
	}
	m := mark{p.o.Kind, p.o.Size, p.w.end, sum}
	place := p.spare
	p.marked, p.spare = p.w.end, 1-p.spare // so that the mark before stays whole
	p.marking = make(chan error, 1)
	go func() { p.marking <- p.setMark(m, place) }()
	return nil
}

func (p *Part) setMark(m mark, place int64) error {
	if err := syncData(p.f); err != nil {
		return err
	}
	p.s.step("a piece is durable")
	if _, err := p.marks.WriteAt(m.encode(), markSize*place); err != nil {
		return err
	}
	if err := syncData(p.marks); err != nil {
		return err
	}
	p.s.step("a mark is durable")
	return nil
}

// settle waits for the mark that is being set.
func (p *Part) settle() error {
	if p.marking == nil {
		return nil
	}
	err := <-p.marking
	p.marking = nil
	if err != nil {
		p.failed = true
	}
	return err
}

// Commit verifies the object, which has arrived in all, and makes it one of
// the store. Where it is not what it should be, nothing of it is kept: the
// error matches [ErrCorrupt] or those of [Store.AddLayer].
func (p *Part) Commit(ctx context.Context) error {
	err := p.settle()
	if err == nil && p.resumed && p.o.Kind == Base {
		err = p.again(ctx)
	}
	if err == nil {
		_, err = p.s.finish(ctx, p.w, p.o, p.f.Name())
	}
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, ErrMissing) {
			p.failed = true // beyond the last mark
			return fmt.Errorf("cannot take in %s: %w", p.o, errors.Join(err, p.Close()))
		}
	}
	p.failed = true // no mark any more
	err = errors.Join(err, p.Close(), p.s.removePart(p.o.Digest))
	if err != nil {
		return fmt.Errorf("cannot take in %s: %w", p.o, err)
	}
	return nil
}

// again has the sum be that of the file, as it reads now, in all.
func (p *Part) again(ctx context.Context) error {
	if err := p.w.finish(ctx, p.o.Size); err != nil {
		return err
	}
	return p.w.reread(ctx)
}

// Close leaves the part for a later push. After Commit it does nothing.
func (p *Part) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	err := p.settle()
	if !p.failed && p.w.end > p.marked {
		if err = p.mark(); err == nil {
			err = p.settle()
		}
	}
	return errors.Join(err, p.f.Close(), p.marks.Close())
}

// A mark says how much of a part is durable. Its encoding, little-endian:
//
//	 0   8  "hatchprt"
//	 8   4  1: base, 2: layer
//	12   4  length of the sum's state
//	16   8  size of the object
//	24   8  bytes that are durable
//	32 220  state of the SHA-256 of a base (encoding.BinaryMarshaler)
//	252  4  CRC-32C of the bytes before
type mark struct {
	kind      Kind
	size, end int64
	sum       []byte
}

const (
	markSize  = 256
	markMagic = "hatchprt"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m *mark) encode() []byte {
	p := make([]byte, markSize)
	copy(p, markMagic)
	kind := uint32(1)
	if m.kind == Layer {
		kind = 2
	}
	binary.LittleEndian.PutUint32(p[8:], kind)
	binary.LittleEndian.PutUint32(p[12:], uint32(len(m.sum)))
	binary.LittleEndian.PutUint64(p[16:], uint64(m.size))
	binary.LittleEndian.PutUint64(p[24:], uint64(m.end))
	copy(p[32:252], m.sum)
	binary.LittleEndian.PutUint32(p[252:], crc32.Checksum(p[:252], castagnoli))
	return p
}

func decodeMark(p []byte) (m mark, ok bool) {
	if len(p) != markSize || string(p[:8]) != markMagic || binary.LittleEndian.Uint32(p[252:]) != crc32.Checksum(p[:252], castagnoli) {
		return m, false
	}
	switch binary.LittleEndian.Uint32(p[8:]) {
	case 1:
		m.kind = Base
	case 2:
		m.kind = Layer
	default:
		return m, false
	}
	n := binary.LittleEndian.Uint32(p[12:])
	m.size, m.end = int64(binary.LittleEndian.Uint64(p[16:])), int64(binary.LittleEndian.Uint64(p[24:]))
	if n > 220 || m.size <= 0 || m.end <= 0 || m.end > m.size {
		return m, false
	}
	m.sum = p[32 : 32+n]
	return m, true
}

// readMark gives the newest mark of a part that can go on, and which of the two
// it is: -1 where there is none.
func (s *Store) readMark(o Object) (best mark, place int64, err error) {
	data, err := readSmall(s.incomingPath(o.Digest, progressSuffix))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		return best, -1, nil
	}
	if err != nil {
		return best, -1, err
	}
	if _, err := os.Lstat(s.incomingPath(o.Digest, partSuffix)); errors.Is(err, fs.ErrNotExist) {
		return best, -1, nil
	}
	place = -1
	for i := range int64(2) {
		if int64(len(data)) < (i+1)*markSize {
			break
		}
		m, ok := decodeMark(data[i*markSize : (i+1)*markSize])
		if !ok || m.kind != o.Kind || m.size != o.Size || m.end <= best.end {
			continue
		}
		if o.Kind == Base && s.newFiller(nil, "", true).resume(m.sum, m.end) != nil {
			continue
		}
		best, place = m, i
	}
	return best, place, nil
}

package layer

import (
	"errors"
	"fmt"
	"io"

	"hatchery/internal/sparse"
)

var errNegative = errors.New("negative offset")

// ReadAt implements [io.ReaderAt] on the whole device.
func (l *Layer) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= l.header.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), l.header.size-off))
	// What is sealed changes no more and needs no lock. Nor do the parents: a
	// reader that waits for the disk there must not hold up writers.
	var err error
	if l.sealed.Load() {
		err = l.read(p[:n], off, nil)
	} else {
		var below inherited
		l.mapping.RLock()
		err = l.read(p[:n], off, &below)
		l.mapping.RUnlock()
		for i := 0; i < below.n && err == nil; i++ {
			b := &below.parts[i]
			err = l.readParent(p[b.from:b.to], off+int64(b.from))
		}
	}
	if err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// inherited are parts of a buffer that the parent has.
type inherited struct {
	parts [16]struct{ from, to int }
	n     int
}

// read fills p, which may reach past the device's end within its last block;
// called with the map held still. What is the parent's is left to the caller
// where it asks for that, as long as there is room to tell it.
func (l *Layer) read(p []byte, off int64, below *inherited) error {
	begin := off
	for len(p) > 0 {
		block, in := off/BlockSize, off%BlockSize
		want := (in + int64(len(p)) + BlockSize - 1) / BlockSize
		place, n, mapped := l.table.find(block, want)
		part := p[:min(n*BlockSize-in, int64(len(p)))]
		switch {
		case !mapped && below != nil && below.n < len(below.parts):
			at := int(off - begin)
			below.parts[below.n].from, below.parts[below.n].to = at, at+len(part)
			below.n++
		case !mapped:
			if err := l.readParent(part, off); err != nil {
				return err
			}
		case place == 0:
			clear(part)
		default:
			at := int64(place)*BlockSize + in
			if m, err := l.file.ReadAt(part, at); m < len(part) {
				if errors.Is(err, io.EOF) {
					return &CorruptError{l.file.Name(), at + int64(m), "the file ends within stored data"}
				}
				return fmt.Errorf("cannot read layer: %w", err)
			}
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

// readParent fills p from the parent, with zeros past its end.
func (l *Layer) readParent(p []byte, off int64) error {
	if rest := l.header.parentSize - off; rest < int64(len(p)) {
		rest = max(rest, 0)
		clear(p[rest:])
		p = p[:rest]
	}
	if len(p) == 0 {
		return nil
	}
	if n, err := l.parent.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("cannot read the layer's parent at byte %d: %w", off, err)
	}
	return nil
}

// WriteAt implements [io.WriterAt] within the device; a write past its end is
// refused as a whole and matches [ErrPastEnd], and so is one past the quota
// ([ErrQuota]). Blocks that become all zeros are not stored. After another
// error, any of the range's blocks may have either content.
func (l *Layer) WriteAt(p []byte, off int64) (int, error) {
	if err := l.within(off, int64(len(p))); err != nil {
		return 0, err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	done, admitted := 0, 0
	for done < len(p) || done == 0 {
		if done == admitted {
			part := p[done:min(int64(done)+l.mostAtOnce(), int64(len(p)))]
			if err := l.admitWrite(part, off+int64(done)); err != nil {
				return done, err
			}
			if admitted += len(part); len(part) == 0 {
				break
			}
		}
		block, in := (off+int64(done))/BlockSize, int((off+int64(done))%BlockSize)
		rest := admitted - done
		var n int
		var err error
		if in != 0 || rest < BlockSize {
			n = min(BlockSize-in, rest)
			err = l.writePart(block, in, p[done:done+n])
		} else {
			n = rest - rest%BlockSize
			err = l.writeBlocks(block, p[done:done+n])
		}
		if err != nil {
			return done, fmt.Errorf("cannot write to layer: %w", err)
		}
		done += n
	}
	return done, nil
}

func (l *Layer) within(off, n int64) error {
	if off < 0 || n < 0 {
		return errNegative
	}
	if off > l.header.size || n > l.header.size-off {
		return fmt.Errorf("%d bytes at %d of %d: %w", n, off, l.header.size, ErrPastEnd)
	}
	return nil
}

// inPlace gives where block and up to limit-1 blocks after it can be written
// over in the file, and how many; ok is false, for so many blocks, where they
// need a new place, because a state on disk uses the present one, or there is none.
func (l *Layer) inPlace(block, limit int64) (place uint32, n int64, ok bool) {
	place, n, mapped := l.table.find(block, limit)
	if !mapped || place == 0 {
		return 0, n, false
	}
	dirty, n := l.table.isDirty(block, n)
	return place, n, dirty
}

// writePart writes within one block.
func (l *Layer) writePart(block int64, in int, p []byte) error {
	if place, _, ok := l.inPlace(block, 1); ok {
		return l.write(p, int64(place)*BlockSize+int64(in))
	}
	var buf [BlockSize]byte
	if err := l.read(buf[:], block*BlockSize, nil); err != nil {
		return err
	}
	copy(buf[in:], p)
	return l.writeBlocks(block, buf[:])
}

// writeBlocks writes whole blocks.
func (l *Layer) writeBlocks(block int64, p []byte) error {
	for len(p) > 0 {
		zero := sparse.IsZero(p[:BlockSize])
		n := int64(1)
		for n*BlockSize < int64(len(p)) && sparse.IsZero(p[n*BlockSize:(n+1)*BlockSize]) == zero {
			n++
		}
		if zero {
			if err := l.remap(block, n, 0, false); err != nil {
				return err
			}
		} else if err := l.store(block, p[:n*BlockSize]); err != nil {
			return err
		}
		block, p = block+n, p[n*BlockSize:]
	}
	return nil
}

// store puts the data of whole blocks into the file.
func (l *Layer) store(block int64, p []byte) error {
	for len(p) > 0 {
		limit := int64(len(p) / BlockSize)
		place, n, ok := l.inPlace(block, limit)
		if ok {
			if err := l.write(p[:n*BlockSize], int64(place)*BlockSize); err != nil {
				return err
			}
		} else {
			for n < limit {
				_, more, ok := l.inPlace(block+n, limit-n)
				if ok {
					break
				}
				n += more
			}
			if err := l.surely(); err != nil {
				return err
			}
			start, got, err := l.space.take(n)
			if err != nil {
				return err
			}
			n = got
			if err := l.write(p[:n*BlockSize], start*BlockSize); err != nil {
				l.space.release(span{uint32(start), uint32(n)})
				return err
			}
			if err := l.remap(block, n, uint32(start), false); err != nil {
				return err
			}
		}
		block, p = block+n, p[n*BlockSize:]
	}
	return nil
}

// Discard makes a range read as zeros and gives back the space of its whole
// blocks: at the latest when the next Flush returns.
func (l *Layer) Discard(off, n int64) error {
	if err := l.within(off, n); err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	end := off + n
	if end == l.header.size {
		end = l.header.blocks() * BlockSize // the last block is whole, then
	}
	var zeros [BlockSize]byte
	if off == end {
		return l.writable()
	}
	for off < end {
		in := off % BlockSize
		n := min(BlockSize-in, end-off)
		var err error
		if n == BlockSize {
			n = (end - off) / BlockSize * BlockSize
			if err := l.admit(1); err != nil {
				return err
			}
			err = l.remap(off/BlockSize, n/BlockSize, 0, true)
		} else {
			if err := l.admitWrite(zeros[:n], off); err != nil {
				return err
			}
			err = l.writePart(off/BlockSize, int(in), zeros[:n])
		}
		if err != nil {
			return fmt.Errorf("cannot discard in layer: %w", err)
		}
		off += n
	}
	return nil
}

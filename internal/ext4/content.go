package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
)

// chunkSize is how much of a stream is in memory at once.
const chunkSize = 1 << 20

// Create makes a regular file with what r gives. A regular file that is there
// already gets new content and attributes as if it were new, extended ones
// dropped; it keeps its inode, and so its other names. A symbolic link, device
// or pipe at path is replaced by the file. r is read to its end, a megabyte at
// a time.
func (fs *FS) Create(path string, r io.Reader, a Attr) error {
	return fs.do("create", path, func() error {
		p, err := fs.locate(path, false)
		if err != nil {
			return err
		}
		if p.in != nil && p.in.isDir() {
			return ErrIsDir
		}
		t := fs.timeOf(a)
		if p.in != nil && p.in.isRegular() {
			return fs.replaceContent(p.in, r, a)
		}
		if err := validName(p.name); err != nil {
			return err
		}
		in, err := fs.newInode(p.dir, modeRegular|permBits(a.Mode), a)
		if err != nil {
			return err
		}
		if err := fs.writeStream(in, &mapping{}, 0, r); err != nil {
			return err
		}
		if p.in == nil {
			return fs.enter(p, in, t)
		}
		if err := fs.setEntry(p.dir, p.d, p.name, in.num, ftRegular); err != nil {
			return err
		}
		p.dir.setModified(t)
		return fs.dropName(p.in, t)
	})
}

func (fs *FS) replaceContent(in *inode, r io.Reader, a Attr) error {
	m, err := fs.loadMap(in)
	if err != nil {
		return err
	}
	// The old blocks are free from here on, and yet not touched: the
	// allocator does not give out what this operation freed.
	if err := fs.freeFrom(in, m, 0); err != nil {
		return err
	}
	if err := fs.dropXattrs(in); err != nil {
		return err
	}
	in.setMode(modeRegular | permBits(a.Mode))
	in.setOwner(a.UID, a.GID)
	t := fs.timeOf(a)
	in.setModified(t)
	in.setTime(inATime, inATimeExtra, t)
	in.setSize(0)
	return fs.writeStream(in, m, 0, r)
}

// Append adds what r gives to the end of a regular file.
func (fs *FS) Append(path string, r io.Reader) error {
	return fs.do("append", path, func() error {
		in, m, err := fs.contentOf(path)
		if err != nil {
			return err
		}
		size := in.size()
		last, within := uint64(size/fs.blockSize), size%fs.blockSize
		// What lies behind the end was allocated in advance.
		if err := fs.freeFrom(in, m, uint64(ceilDiv(size, fs.blockSize))); err != nil {
			return err
		}
		in.setModified(fs.now)
		if within == 0 {
			return fs.writeStream(in, m, last, r)
		}
		pblk, written := m.lookup(uint32(last))
		if !written {
			if err := fs.freeFrom(in, m, last); err != nil {
				return err
			}
			return fs.writeStream(in, m, last, io.MultiReader(bytes.NewReader(make([]byte, within)), r))
		}
		b, err := fs.cached(pblk)
		if err != nil {
			return err
		}
		fs.touch(b)
		clear(b.data[within:])
		n, err := io.ReadFull(r, b.data[within:])
		in.setSize(size + int64(n))
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if err := fs.needLargeFile(in); err != nil {
				return err
			}
			return fs.storeMap(in, m)
		}
		if err != nil {
			return err
		}
		return fs.writeStream(in, m, last+1, r)
	})
}

// Truncate cuts a regular file to size bytes, or makes it that long with a
// hole that reads as zeros.
func (fs *FS) Truncate(path string, size int64) error {
	return fs.do("truncate", path, func() error {
		if size < 0 {
			return iofs.ErrInvalid
		}
		if size > fs.maxFileSize() {
			return ErrTooLarge
		}
		in, m, err := fs.contentOf(path)
		if err != nil {
			return err
		}
		// Behind the shorter of both ends there must be nothing but zeros.
		end := min(size, in.size())
		if err := fs.freeFrom(in, m, uint64(ceilDiv(end, fs.blockSize))); err != nil {
			return err
		}
		if within := end % fs.blockSize; within != 0 {
			if pblk, ok := m.lookup(uint32(end / fs.blockSize)); ok {
				b, err := fs.cached(pblk)
				if err != nil {
					return err
				}
				if !allZero(b.data[within:]) {
					fs.touch(b)
					clear(b.data[within:])
				}
			}
		}
		if err := fs.storeMap(in, m); err != nil {
			return err
		}
		in.setSize(size)
		in.setModified(fs.now)
		return fs.needLargeFile(in)
	})
}

func allZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// contentOf opens a regular file for a change of its content.
func (fs *FS) contentOf(path string) (*inode, *mapping, error) {
	p, err := fs.locate(path, true)
	if err != nil {
		return nil, nil, err
	}
	in := p.in
	switch {
	case in == nil:
		return nil, nil, iofs.ErrNotExist
	case in.isDir():
		return nil, nil, ErrIsDir
	case !in.isRegular():
		return nil, nil, ErrNotRegular
	case in.size() < 0 || in.size() > fs.maxFileSize():
		return nil, nil, corrupt(fmt.Sprintf("inode %d", in.num), in.tableBlock, "size %d", in.size())
	}
	m, err := fs.loadMap(in)
	return in, m, err
}

// maxFileSize is what 32-bit logical block numbers reach.
func (fs *FS) maxFileSize() int64 { return (1<<32 - 1) * fs.blockSize }

// needLargeFile sets the feature that files of 2 GiB and more need.
func (fs *FS) needLargeFile(in *inode) error {
	if in.size() < 1<<31 || le32(fs.superblock(), sbFeatureROCompat)&roLargeFile != 0 {
		return nil
	}
	sb := fs.changeSuperblock()
	put32(sb, sbFeatureROCompat, le32(sb, sbFeatureROCompat)|roLargeFile)
	return nil
}

// writeStream writes what r gives from logical block lblk on, behind which
// the mapping has nothing, and sets the inode's size. The blocks are written
// to the device at once: they were free.
func (fs *FS) writeStream(in *inode, m *mapping, lblk uint64, r io.Reader) error {
	if fs.chunk == nil {
		fs.chunk = make([]byte, chunkSize)
	}
	size := int64(lblk) * fs.blockSize
	goal := fs.dataGoal(in)
	if k := len(m.extents); k > 0 {
		goal = m.extents[k-1].pblk + uint64(m.extents[k-1].n)
	}
	for {
		n, err := io.ReadFull(r, fs.chunk)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if size+int64(n) > fs.maxFileSize() {
			return ErrTooLarge
		}
		blocks := ceilDiv(int64(n), fs.blockSize)
		data := fs.chunk[:blocks*fs.blockSize]
		clear(data[n:])
		for len(data) > 0 {
			start, got, err := fs.allocFor(in, goal, uint32(int64(len(data))/fs.blockSize))
			if err != nil {
				return err
			}
			part := int64(got) * fs.blockSize
			if _, err := fs.w.WriteAt(data[:part], int64(start)*fs.blockSize); err != nil {
				return fmt.Errorf("cannot write to block %d: %w", start, err)
			}
			m.add(uint32(lblk), start, got)
			data, lblk, goal = data[part:], lblk+uint64(got), start+uint64(got)
		}
		size += int64(n)
		if end {
			break
		}
	}
	in.setSize(size)
	if err := fs.storeMap(in, m); err != nil {
		return err
	}
	return fs.needLargeFile(in)
}

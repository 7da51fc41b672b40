// Package allocation finds out which blocks of an image must reach a card: from the
// partition table and the file systems' own records, not from what is zero. Free blocks
// that hold old data are left out, and blocks of zeros that are in use are in, so that
// what is left out may stay as it is on a card that is full of something else.
package allocation

import (
	"errors"
	"fmt"
	"io"
	"os"

	"hatchery/internal/bmap"
	"hatchery/internal/bootpart"
	"hatchery/internal/ext4"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	"hatchery/internal/sparse"
)

// Mapped gives the ranges of an image of size bytes that must be copied for
// it to work elsewhere: whole blocks of [bmap.BlockSize] (but for the image's
// end), ascending, neighbours joined.
//
// These are the block with the partition table and the boot code; of each
// partition with ext4 or FAT32 what its file system has in use, and what
// behind the file system's end is not zero; all of any other partition, and
// of one whose file system cannot be read or is not clean; and of what
// belongs to no partition that which is not zero. An image without an MBR
// that makes sense is mapped whole.
//
// The errors are r's.
func Mapped(r io.ReaderAt, size int64) ([]layer.Extent, error) {
	m := &mapper{r: r, size: size}
	if err := m.image(); err != nil {
		return nil, fmt.Errorf("cannot find out which blocks of the image are in use: %w", err)
	}
	return layer.Union(m.found), nil
}

type mapper struct {
	r     io.ReaderAt
	size  int64
	found []layer.Extent
}

// add notes a range, in whole blocks.
func (m *mapper) add(off, n int64) {
	end := min(m.size, (off+n+bmap.BlockSize-1)/bmap.BlockSize*bmap.BlockSize)
	off -= off % bmap.BlockSize
	if off < end {
		m.found = append(m.found, layer.Extent{Offset: off, Length: end - off})
	}
}

func (m *mapper) image() error {
	table, err := parttable.Read(m.r, m.size)
	var partition *parttable.PartitionError
	var gpt *parttable.GPTError
	switch {
	case errors.Is(err, parttable.ErrNoTable), errors.As(err, &gpt), errors.As(err, &partition):
		m.add(0, m.size)
		return nil
	case err != nil:
		return err
	}
	m.add(0, parttable.SectorSize)
	var taken []layer.Extent
	for _, p := range table.Partitions {
		if !p.Used() {
			continue
		}
		if err := m.partition(p); err != nil {
			return err
		}
		taken = append(taken, layer.Extent{Offset: p.Start, Length: p.Size})
	}
	gap := int64(parttable.SectorSize)
	for _, e := range append(layer.Union(taken), layer.Extent{Offset: m.size}) {
		if err := m.nonZero(gap, e.Offset); err != nil {
			return err
		}
		gap = e.Offset + e.Length
	}
	return nil
}

// allocator is a file system that knows what it has in use.
type allocator interface {
	Allocated(visit func(offset, length int64) error) error
}

// partition maps one partition. Whatever keeps its file system from being
// read, the whole of it is always right.
func (m *mapper) partition(p parttable.Partition) error {
	fs, end := fileSystem(io.NewSectionReader(m.r, p.Start, p.Size), p.Size)
	if fs == nil {
		m.add(p.Start, p.Size)
		return nil
	}
	before := len(m.found)
	err := fs.Allocated(func(offset, length int64) error {
		m.add(p.Start+offset, length)
		return nil
	})
	if err != nil {
		m.found = m.found[:before]
		m.add(p.Start, p.Size)
		return nil
	}
	return m.nonZero(p.Start+end, p.End())
}

// fileSystem opens what lies in a partition, and says where it ends; nil
// where that is nothing whose allocation can be relied on.
func fileSystem(r io.ReaderAt, size int64) (allocator, int64) {
	if fs, err := ext4.OpenReadOnly(r, size); err == nil {
		u := fs.Usage()
		return fs, int64(u.Blocks) * u.BlockSize
	}
	if fs, err := bootpart.OpenReadOnly(r, 0, size); err == nil {
		return fs, fs.Size()
	}
	return nil, 0
}

// nonZero maps the blocks between two places that are not all zeros.
func (m *mapper) nonZero(off, end int64) error {
	if off >= end {
		return nil
	}
	f, ok := m.r.(*os.File)
	if !ok {
		return m.scan(off, end)
	}
	for seg, err := range sparse.Segments(f, off, end) {
		if err == nil {
			err = m.scan(seg.Offset, seg.Offset+seg.Length)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *mapper) scan(off, end int64) error {
	buf := make([]byte, min(end-off, 256<<10))
	for off < end {
		// Up to a block's start, and from there in whole blocks.
		step := min(end-off, int64(len(buf))-off%bmap.BlockSize)
		if step <= 0 {
			step = min(end-off, int64(len(buf)))
		}
		part := buf[:step]
		if n, err := m.r.ReadAt(part, off); n < len(part) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		for len(part) > 0 {
			n := min(int64(len(part)), bmap.BlockSize-off%bmap.BlockSize)
			if !sparse.IsZero(part[:n]) {
				m.add(off, n)
			}
			off, part = off+n, part[n:]
		}
	}
	return nil
}

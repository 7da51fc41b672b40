// Package bmap reads and writes block maps, the files that tell bmaptool (and
// whoever else copies an image onto a card) which blocks of the image matter,
// and the checksums of those.
//
// The format is bmaptool's (github.com/yoctoproject/bmaptool): XML, of which
// version 2.0 is written. Read are 2.0, 1.4 (the same under another number, a
// slip of bmaptool 3.0), and the versions before, whose checksums are SHA-1
// or missing.
//
// The file has a checksum of its own, computed while zeros stand in its place.
package bmap

import (
	"fmt"
	"slices"
)

// BlockSize is the size in bytes of the blocks that hatchery's own maps count
// in: that of bmaptool's maps of files on nearly every file system.
const BlockSize = 4096

// SHA256 is the checksum type of the maps that hatchery makes.
const SHA256 = "sha256"

// A Map says which blocks of an image hold something.
type Map struct {
	ImageSize int64 // bytes; the last block may be cut short
	BlockSize int64 // bytes
	// ChecksumType is the hash of the ranges' checksums and the file's own:
	// "sha256", or in foreign maps "sha1" and the like; "" where the version
	// knows no checksums.
	ChecksumType string
	Ranges       []Range // ascending, not overlapping; neighbours may touch
}

// A Range is a run of mapped blocks.
type Range struct {
	First, Last int64 // block numbers; Last belongs to it
	// Checksum is that of the blocks' bytes, in lower-case hexadecimal; "" is
	// none.
	Checksum string
}

// Blocks counts the blocks of the image, the last of which may be cut short.
func (m *Map) Blocks() int64 {
	blocks := m.ImageSize / m.BlockSize
	if m.ImageSize%m.BlockSize != 0 {
		blocks++
	}
	return blocks
}

// Mapped counts the mapped blocks.
func (m *Map) Mapped() int64 {
	var n int64
	for _, r := range m.Ranges {
		n += r.Last - r.First + 1
	}
	return n
}

// Bytes gives where a range begins, in bytes, and how many it has: the
// image's last block may be cut short.
func (m *Map) Bytes(r Range) (offset, length int64) {
	offset = r.First * m.BlockSize
	// Compared before it is multiplied, since the last block's end may lie
	// past what an int64 holds.
	if r.Last >= m.ImageSize/m.BlockSize {
		return offset, m.ImageSize - offset
	}
	return offset, (r.Last+1)*m.BlockSize - offset
}

// Merged gives the mapped ranges with those that touch joined, and so without
// checksums.
func (m *Map) Merged() []Range {
	var out []Range
	for _, r := range m.Ranges {
		if k := len(out) - 1; k >= 0 && out[k].Last+1 == r.First {
			out[k].Last = r.Last
			continue
		}
		out = append(out, Range{First: r.First, Last: r.Last})
	}
	return out
}

// maxBlockSize bounds what a foreign map may claim.
const maxBlockSize = 64 << 20

// check sees that the map makes sense.
func (m *Map) check() error {
	switch {
	case m.ImageSize <= 0:
		return fmt.Errorf("an image of %d bytes", m.ImageSize)
	case m.BlockSize <= 0 || m.BlockSize > maxBlockSize:
		return fmt.Errorf("blocks of %d bytes", m.BlockSize)
	}
	digits := 0
	if m.ChecksumType != "" {
		h, err := newHash(m.ChecksumType)
		if err != nil {
			return err
		}
		digits = 2 * h.Size()
	}
	next := int64(0)
	for _, r := range m.Ranges {
		switch {
		case r.First > r.Last:
			return fmt.Errorf("the range %d-%d ends before it begins", r.First, r.Last)
		case r.First < next:
			return fmt.Errorf("the range %d-%d overlaps one before it, or is out of order", r.First, r.Last)
		case r.Last >= m.Blocks():
			return fmt.Errorf("the range %d-%d lies past the image's %d blocks", r.First, r.Last, m.Blocks())
		case r.Checksum != "" && (len(r.Checksum) != digits || !isHex(r.Checksum)):
			return fmt.Errorf("the checksum %.80q of the range %d-%d is no %s", r.Checksum, r.First, r.Last, orNone(m.ChecksumType))
		}
		next = r.Last + 1
	}
	return nil
}

func orNone(checksumType string) string {
	if checksumType == "" {
		return "checksum of a known type"
	}
	return checksumType
}

func isHex(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(c byte) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'f')
	})
}

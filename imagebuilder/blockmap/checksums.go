package blockmap

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/bmap"
	"hatchery/internal/cachefile"
	"hatchery/internal/progress"
)

// A Disk is what an image's bytes are read from: a base, a layer over it, or
// a file.
type Disk interface {
	io.ReaderAt
	Size() int64
}

// Checksums are those of a base's mapped ranges. They are computed once a
// base, and kept in a file.
type Checksums struct {
	base   digest.Digest
	size   int64
	ranges sums
}

// A sum is the checksum of a run of mapped blocks that lies within one chunk.
type sum struct {
	first, last int64 // blocks
	sha256      [32]byte
}

// Sum computes the checksums of a base whose content has the digest d.
func Sum(ctx context.Context, base Disk, d digest.Digest, report progress.Reporter) (*Checksums, error) {
	ranges, err := chunks(base)
	if err != nil {
		return nil, err
	}
	pending := make([]*sum, len(ranges))
	for i := range ranges {
		pending[i] = &ranges[i]
	}
	if err := hashAll(ctx, "checksums of the base", base, pending, report); err != nil {
		return nil, err
	}
	return &Checksums{d, base.Size(), ranges}, nil
}

// LoadOrSum gives the checksums that are kept at path, if they are whole and
// of the base whose content has the digest d. Else it computes them and keeps
// them there, for its owner alone to read; where that fails, the next one
// computes them again.
func LoadOrSum(ctx context.Context, path string, base Disk, d digest.Digest, report progress.Reporter) (*Checksums, error) {
	if c, err := Load(path, d, base.Size()); err == nil {
		return c, nil
	}
	c, err := Sum(ctx, base, d, report)
	if err != nil {
		return nil, err
	}
	_ = c.Save(path) // nothing depends on it but time
	return c, nil
}

// What a file of checksums is, for cachefile.
const (
	recordSize = 8 + 8 + 32
	mostFile   = 256 << 20
)

// kind names the format, and what would make checksums useless: other chunks.
var kind = fmt.Sprintf("blockmap 1, %d in %d", bmap.BlockSize, ChunkSize)

func key(base digest.Digest, size int64) string { return fmt.Sprintf("%s %d", base, size) }

// Save keeps the checksums in a file, for its owner alone to read.
func (c *Checksums) Save(path string) error {
	b := make([]byte, 0, len(c.ranges)*recordSize)
	for _, r := range c.ranges {
		b = binary.LittleEndian.AppendUint64(b, uint64(r.first))
		b = binary.LittleEndian.AppendUint64(b, uint64(r.last))
		b = append(b, r.sha256[:]...)
	}
	return cachefile.Write(path, kind, key(c.base, c.size), b)
}

// Load reads checksums that were saved. The error is [cachefile.ErrNone]
// where there are none of a base of this digest and size.
func Load(path string, base digest.Digest, size int64) (*Checksums, error) {
	b, err := cachefile.Read(path, kind, key(base, size), mostFile)
	if err != nil {
		return nil, err
	}
	if len(b)%recordSize != 0 {
		return nil, cachefile.ErrNone
	}
	c := &Checksums{base, size, make([]sum, 0, len(b)/recordSize)}
	for ; len(b) > 0; b = b[recordSize:] {
		c.ranges = append(c.ranges, sum{
			first:  int64(binary.LittleEndian.Uint64(b)),
			last:   int64(binary.LittleEndian.Uint64(b[8:])),
			sha256: [32]byte(b[16:]),
		})
	}
	return c, nil
}

func (s *sum) rangeOf() bmap.Range {
	return bmap.Range{First: s.first, Last: s.last, Checksum: hex.EncodeToString(s.sha256[:])}
}

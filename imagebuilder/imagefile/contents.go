package imagefile

import (
	"crypto/sha1" // what block maps before version 1.4 have
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"hatchery/imagebuilder/flash"
	"hatchery/internal/bmap"
	"hatchery/internal/layer"
)

// contents is what must be written of an image, in pieces.
type contents struct {
	m       *bmap.Map
	mapPath string // of the block map in use; "" is none

	// Of a foreign map: what is checked here, since it is no piece's.
	sumType string
	long    []longRange // ascending

	mu     sync.Mutex
	known  []bool           // by longRange: it was right
	peeked []bool           // by longRange: pieces of it were given before that was known
	owed   map[int][32]byte // what was given so, by its SHA-256
	begun  bool             // something was given
	read   bool             // the file was read to its end, and was right
}

// A longRange is a range of a foreign map whose checksum is not that of a
// piece.
type longRange struct {
	first, last    int // pieces
	offset, length int64
	sum            string // lower-case hexadecimal
}

// Map implements [flash.Source].
func (c *contents) Map() *bmap.Map { return c.m }

// pieceBlocks is how many blocks a piece has at most.
const pieceBlocks = flash.PieceSize / bmap.BlockSize

// maxPieces bounds what is kept of an image in memory, at 32 bytes a piece and
// more: 1 TiB.
const maxPieces = 1 << 21

var errTooLarge = fmt.Errorf("more than the %d GiB that can be written to a card from an image file", maxPieces*flash.PieceSize>>30)

// newMap is an empty map of an image in pieces.
func newMap(size int64) *bmap.Map {
	return &bmap.Map{ImageSize: size, BlockSize: bmap.BlockSize, ChecksumType: bmap.SHA256}
}

// piecesOf counts the pieces of a range.
func piecesOf(r bmap.Range) int64 { return r.Last/pieceBlocks - r.First/pieceBlocks + 1 }

// split adds the pieces of a range to a map, without a checksum.
func split(m *bmap.Map, r bmap.Range) {
	for first := r.First; first <= r.Last; {
		last := min(r.Last, first/pieceBlocks*pieceBlocks+pieceBlocks-1)
		m.Ranges = append(m.Ranges, bmap.Range{First: first, Last: last})
		first = last + 1
	}
}

// mapExtents makes the map of what is in use of an image.
func mapExtents(size int64, used []layer.Extent) (*bmap.Map, error) {
	m := newMap(size)
	var ranges []bmap.Range
	pieces := int64(0)
	for _, e := range used {
		r := bmap.Range{First: e.Offset / bmap.BlockSize, Last: (e.Offset + e.Length - 1) / bmap.BlockSize}
		ranges = append(ranges, r)
		if pieces += piecesOf(r); pieces > maxPieces {
			return nil, errTooLarge
		}
	}
	m.Ranges = make([]bmap.Range, 0, pieces)
	for _, r := range ranges {
		split(m, r)
	}
	return m, nil
}

// mapWhole makes the map of an image of which all is in use.
func mapWhole(size int64) (*bmap.Map, error) {
	return mapExtents(size, []layer.Extent{{Offset: 0, Length: size}})
}

// take makes pieces of a block map's ranges. A checksum that is a piece's
// stays with it; the others are checked here.
func (c *contents) take(m *bmap.Map) error {
	if m.BlockSize != bmap.BlockSize {
		return fmt.Errorf("its blocks have %d bytes, and only blocks of %d are known here", m.BlockSize, bmap.BlockSize)
	}
	if len(m.Ranges) == 0 || m.Ranges[0].First != 0 {
		return errors.New("it leaves out the image's first block, where the partition table lies")
	}
	pieces := int64(0)
	for _, r := range m.Ranges {
		if pieces += piecesOf(r); pieces > maxPieces {
			return errTooLarge
		}
	}
	c.m, c.sumType = newMap(m.ImageSize), m.ChecksumType
	c.m.Ranges = make([]bmap.Range, 0, pieces)
	for _, r := range m.Ranges {
		first := len(c.m.Ranges)
		split(c.m, r)
		last := len(c.m.Ranges) - 1
		switch {
		case r.Checksum == "":
		case first == last && m.ChecksumType == bmap.SHA256:
			c.m.Ranges[first].Checksum = r.Checksum
		default:
			offset, length := m.Bytes(r)
			c.long = append(c.long, longRange{first, last, offset, length, r.Checksum})
		}
	}
	if len(c.long) > 0 {
		if _, err := newHash(c.sumType); err != nil {
			return err
		}
	}
	c.known, c.peeked, c.owed = make([]bool, len(c.long)), make([]bool, len(c.long)), map[int][32]byte{}
	return nil
}

// newHash gives the hash of a checksum type that package bmap knows.
func newHash(name string) (hash.Hash, error) {
	switch name {
	case "sha1":
		return sha1.New(), nil
	case "sha224":
		return sha256.New224(), nil
	case bmap.SHA256:
		return sha256.New(), nil
	case "sha384":
		return sha512.New384(), nil
	case "sha512":
		return sha512.New(), nil
	}
	return nil, &bmap.UnsupportedError{What: fmt.Sprintf("the checksum type %.40q", name)}
}

// longOf gives the index of the long range that a piece belongs to, or -1.
func (c *contents) longOf(piece int) int {
	k := sort.Search(len(c.long), func(k int) bool { return c.long[k].last >= piece })
	if k < len(c.long) && c.long[k].first <= piece {
		return k
	}
	return -1
}

// A need is a piece that must be read.
type need struct {
	piece int
	long  int  // the long range that is checked with it; -1 is none
	given bool // and not only checked
	owed  bool // it is given before its long range is checked
}

// peekPieces is how many pieces may be wanted without all that their long
// ranges, or what stands at a compressed file's end, needs for being checked:
// once, since whoever looks at an image's beginning comes back for the rest.
// What was given so is held against what comes then.
const peekPieces = 8

// A plan is what must be read for some pieces.
type plan struct {
	needs []need
	// toTheEnd: no checksum tells of damage but a compressed file's own, and
	// that stands behind the content.
	toTheEnd bool
}

// plan lists what must be read for the wanted pieces: those, and all others of
// the long ranges that they belong to, until those are known to be right.
func (c *contents) plan(wanted []int) (plan, error) {
	for k, i := range wanted {
		if i < 0 || i >= len(c.m.Ranges) || k > 0 && i <= wanted[k-1] {
			return plan{}, fmt.Errorf("the piece %d of %d is wanted out of order", i, len(c.m.Ranges))
		}
	}
	if len(wanted) == 0 {
		return plan{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	few := len(wanted) <= peekPieces && len(wanted) < len(c.m.Ranges)
	p := plan{needs: make([]need, 0, len(wanted))}
	peeks := map[int]bool{}
	for len(wanted) > 0 {
		i, k := wanted[0], -1
		if len(c.long) > 0 {
			k = c.longOf(i)
		}
		switch {
		case k < 0:
			p.toTheEnd = p.toTheEnd || c.m.Ranges[i].Checksum == ""
			p.needs = append(p.needs, need{piece: i, long: -1, given: true})
			wanted = wanted[1:]
		case c.known[k]:
			p.needs = append(p.needs, need{piece: i, long: -1, given: true})
			wanted = wanted[1:]
		case few && (peeks[k] || !c.peeked[k] && c.long[k].last-c.long[k].first >= peekPieces):
			peeks[k], c.peeked[k] = true, true
			p.needs = append(p.needs, need{piece: i, long: -1, given: true, owed: true})
			wanted = wanted[1:]
		default:
			for j := c.long[k].first; j <= c.long[k].last; j++ {
				n := need{piece: j, long: k, given: len(wanted) > 0 && wanted[0] == j}
				if n.given {
					wanted = wanted[1:]
				}
				p.needs = append(p.needs, n)
			}
		}
	}
	p.toTheEnd = p.toTheEnd && !c.read && (c.begun || !few)
	c.begun = true
	return p, nil
}

// maxMapFile bounds a block map's file, in bytes, and so the memory that
// reading it takes: hatchery's own of 128 GiB that are in use is smaller.
const maxMapFile = 32 << 20

// findBlockMap gives the path of the block map that is to be used; "" is none.
func (i *image) findBlockMap() (string, error) {
	switch {
	case i.options.NoBlockMap:
		return "", nil
	case i.options.BlockMap != "":
		return i.options.BlockMap, nil
	}
	for _, name := range besides(i.path) {
		_, err := os.Stat(name)
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", i.bad("cannot look for its block map %s: %w", name, bare(err))
		}
	}
	return "", nil
}

// besides lists where a block map lies beside an image, as bmaptool looks for
// it: with the extensions taken away one by one.
func besides(path string) []string {
	names := []string{path + ".bmap"}
	stem := path
	for _, known := range [][]string{{".xz", ".gz", ".zst", ".zip"}, {".img", ".wic", ".raw", ".bin"}} {
		ext := filepath.Ext(stem)
		if !slices.Contains(known, strings.ToLower(ext)) {
			continue
		}
		stem = strings.TrimSuffix(stem, ext)
		if strings.EqualFold(ext, ".zip") {
			names = append(names, stem+".img.bmap")
		}
		names = append(names, stem+".bmap")
	}
	return names
}

// loadBlockMap reads the image's block map, if there is one. Size is the
// image's in bytes, -1 where it is not known.
func (i *image) loadBlockMap(size int64) error {
	path, err := i.findBlockMap()
	if err != nil || path == "" {
		return err
	}
	bad := func(err error, remedy string) error {
		return i.bad("its block map %s: %w; %s", path, err, remedy)
	}
	f, info, err := openRegular(path)
	if err != nil {
		return bad(err, "name another, or do without (--no-bmap)")
	}
	defer f.Close()
	if info.Size() > maxMapFile {
		return bad(fmt.Errorf("it has %d bytes, more than a block map can have", info.Size()), withoutMap)
	}
	m, err := bmap.Parse(io.LimitReader(f, maxMapFile))
	if err != nil {
		return bad(err, withoutMap)
	}
	if size >= 0 && m.ImageSize != size {
		return bad(fmt.Errorf("it is of an image of %d bytes, and this one has %d", m.ImageSize, size), withoutMap)
	}
	if err := i.take(m); err != nil {
		return bad(err, withoutMap)
	}
	i.mapPath = path
	if m.ChecksumType == "" || !slices.ContainsFunc(m.Ranges, func(r bmap.Range) bool { return r.Checksum != "" }) {
		i.warn("the block map %s has no checksums, so damage to the image would not show", path)
	}
	return nil
}

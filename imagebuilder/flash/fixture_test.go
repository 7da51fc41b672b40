package flash_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"hatchery/imagebuilder/flash"
	"hatchery/internal/bmap"
	"hatchery/internal/progress"
)

var background = context.Background()

func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// image is a disk image in memory with its map, a source that can be read at
// any place.
type image struct {
	data []byte
	m    *bmap.Map
}

func (im *image) Map() *bmap.Map { return im.m }

func (im *image) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(im.data).ReadAt(p, off)
}

func (im *image) Pieces(ctx context.Context, wanted []int, give func(int, []byte) error) error {
	panic("a source that can be read at any place is")
}

// stream is a source that can only be asked for pieces. It gives them from
// several goroutines, out of order, in memory that is used again.
type stream struct {
	im      *image
	workers int
	calls   [][]int
	wrong   func(i int, content []byte) ([]byte, error)
}

func (s *stream) Map() *bmap.Map { return s.im.m }

func (s *stream) Pieces(ctx context.Context, wanted []int, give func(int, []byte) error) error {
	if !slices.IsSorted(wanted) {
		panic("the wanted do not ascend")
	}
	s.calls = append(s.calls, wanted)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	workers := max(1, s.workers)
	for w := range workers {
		wg.Go(func() {
			lent := make([]byte, flash.PieceSize)
			// Each has a part of the image, as decoders of blocks have.
			for _, i := range wanted[w*len(wanted)/workers : (w+1)*len(wanted)/workers] {
				off, n := s.im.m.Bytes(s.im.m.Ranges[i])
				content := lent[:n]
				copy(content, s.im.data[off:])
				var err error
				if s.wrong != nil {
					content, err = s.wrong(i, content)
				}
				if err == nil && content != nil {
					err = give(i, content)
				}
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				fill(lent, 3)
			}
		})
	}
	wg.Wait()
	return failed
}

// newImage makes an image of size bytes with an MBR and noise, in which share of
// ten stretches of 64 KiB are mapped. The partition table fills less than the
// image, and what is not mapped is not zero.
func newImage(size int64, share int, seed byte) *image {
	data := make([]byte, size)
	fill(data, uint64(seed))
	clear(data[:512])
	mbr(data, size)
	m := &bmap.Map{ImageSize: size, BlockSize: bmap.BlockSize, ChecksumType: bmap.SHA256}
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	const step, chunk = 16, flash.PieceSize / bmap.BlockSize
	for b := int64(0); b < m.Blocks(); b += step {
		if b > 0 && r.IntN(10) >= share {
			continue
		}
		last := min(b+step, m.Blocks()) - 1
		if k := len(m.Ranges) - 1; k >= 0 && m.Ranges[k].Last == b-1 && b%chunk != 0 {
			m.Ranges[k].Last = last
			continue
		}
		m.Ranges = append(m.Ranges, bmap.Range{First: b, Last: last})
	}
	im := &image{data, m}
	im.sum()
	return im
}

// mbr writes a table like Raspberry Pi OS's, of which the second partition
// reaches to size.
func mbr(data []byte, size int64) {
	binary.LittleEndian.PutUint32(data[440:], 0x12345678)
	entry := func(i int, kind byte, start, end int64) {
		e := data[446+16*i:]
		e[4] = kind
		binary.LittleEndian.PutUint32(e[8:], uint32(start/512))
		binary.LittleEndian.PutUint32(e[12:], uint32((end-start)/512))
	}
	entry(0, 0x0c, 64<<10, 128<<10)
	entry(1, 0x83, 128<<10, size/512*512)
	data[510], data[511] = 0x55, 0xaa
}

// sum computes the map's checksums.
func (im *image) sum() {
	for i := range im.m.Ranges {
		r := &im.m.Ranges[i]
		off, n := im.m.Bytes(*r)
		sum := sha256.Sum256(im.data[off : off+n])
		r.Checksum = hex.EncodeToString(sum[:])
	}
}

// unsummed is the same image without checksums.
func (im *image) unsummed() *image {
	m := *im.m
	m.Ranges = slices.Clone(m.Ranges)
	for i := range m.Ranges {
		m.Ranges[i].Checksum = ""
	}
	return &image{im.data, &m}
}

// changed is the image with other content in some of its ranges.
func (im *image) changed(ranges ...int) *image {
	m := *im.m
	m.Ranges = slices.Clone(m.Ranges)
	c := &image{slices.Clone(im.data), &m}
	for _, i := range ranges {
		off, n := m.Bytes(m.Ranges[i])
		c.data[off+n-1] ^= 1
	}
	c.sum()
	return c
}

// differences gives the first places where a card has not what an image has
// mapped. The entry of the last partition may be larger.
func differences(c *memory, im *image) []int64 {
	var out []int64
	for _, r := range im.m.Ranges {
		off, n := im.m.Bytes(r)
		for at := off; at < off+n; at++ {
			if c.data[at] != im.data[at] && (at < 446 || at >= 510) {
				out = append(out, at)
				break
			}
		}
	}
	return out
}

// holds fails the test where the card has not all of the image.
func holds(t testing.TB, c *memory, im *image) {
	t.Helper()
	if d := differences(c, im); len(d) > 0 {
		t.Fatalf("the card has not what the image has: %d ranges, first at %d", len(d), d[0])
	}
}

// boots says whether the first block could be taken for a partition table.
func boots(c *memory) bool {
	return c.data[510] == 0x55 && c.data[511] == 0xaa || bytes.Contains(c.data[:4096], []byte("EFI PART"))
}

func write(t testing.TB, c flash.Card, src flash.Source, o flash.Options) *flash.Result {
	t.Helper()
	if o.Target == "" {
		o.Cluster, o.Target = "homelab", "p1"
	}
	r, err := flash.Write(background, c, src, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reporter notes which phases there were, and their bytes.
type reporter struct {
	begun func(name string)
	mu    sync.Mutex
	tasks []*task
}

type task struct {
	r           *reporter
	name        string
	total, done int64
	ended       bool
}

func (r *reporter) Begin(name string, total int64) progress.Task {
	r.mu.Lock()
	k := &task{r: r, name: name, total: total}
	r.tasks = append(r.tasks, k)
	r.mu.Unlock()
	if r.begun != nil {
		r.begun(name)
	}
	return k
}

func (k *task) Add(n int64) {
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	k.done += n
}

func (k *task) End(error) {
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	k.ended = true
}

func (r *reporter) has(phase string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.tasks, func(k *task) bool { return strings.HasPrefix(k.name, phase) })
}

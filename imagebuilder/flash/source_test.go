package flash_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/imagebuilder/flash"
	"hatchery/internal/bmap"
)

// changing is an image that somebody writes to meanwhile.
type changing struct {
	*image
	place int64
	reads int
}

func (s *changing) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.image.ReadAt(p, off)
	if s.place >= off && s.place < off+int64(len(p)) {
		p[s.place-off] ^= byte(s.reads)
		s.reads++
	}
	return n, err
}

func TestDamagedSource(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	damaged := func(i int) *image {
		d := im.changed(i)
		d.m = im.m // with the checksums of what it was
		return d
	}
	for _, test := range []struct {
		summary string
		ranges  []int // the first that is damaged
		early   bool  // the card is not touched
	}{
		{"in the middle", []int{12}, false},
		{"in the first range", []int{0}, true},
		{"in the last", []int{len(im.m.Ranges) - 1}, false},
	} {
		d := damaged(test.ranges[0])
		for name, source := range map[string]flash.Source{"read": d, "streamed": &stream{im: d}, "streamed by several": &stream{im: d, workers: 4}} {
			c := newCard(t, 18<<20)
			copy(c.data, im.changed(3).data)
			before := slices.Clone(c.data)
			_, err := flash.Write(background, c, source, flash.Options{})
			var is *flash.SourceError
			off, n := im.m.Bytes(im.m.Ranges[test.ranges[0]])
			if !errors.As(err, &is) || is.Offset != off || is.Length != n || !errors.Is(err, flash.ErrChecksum) {
				t.Errorf("%s, %s: %v", test.summary, name, err)
			}
			if errors.Is(err, flash.ErrUnfinished) == test.early || boots(c) != test.early || test.early && !slices.Equal(before, c.data) {
				t.Errorf("%s, %s: %v, boots: %v", test.summary, name, err, boots(c))
			}
			write(t, c, im, flash.Options{})
			holds(t, c, im)
		}
	}
}

func TestChangingSource(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	place, off, n := mapped(im, 9)
	c := newCard(t, 18<<20)
	// A flaw of the card has the range read again.
	c.during("read", place, func(before int, p []byte) (bool, int, error) { return before < 2, 0, errIO })
	_, err := flash.Write(background, c, &changing{image: im.unsummed(), place: place}, flash.Options{})
	var is *flash.SourceError
	if !errors.As(err, &is) || !errors.Is(err, flash.ErrChanged) || is.Offset != off || is.Length != n || boots(c) {
		t.Errorf("error %v", err)
	}
}

func TestSourceFails(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	broken := errors.New("broken pipe")
	for _, test := range []struct {
		summary string
		wrong   func(i int, content []byte) ([]byte, error)
		err     string
		early   bool
	}{
		{"it fails in the middle", func(i int, content []byte) ([]byte, error) {
			if i == 12 {
				return nil, broken
			}
			return content, nil
		}, "broken pipe", false},
		{"it fails at once", func(int, []byte) ([]byte, error) { return nil, broken }, "broken pipe", true},
		{"it gives too little", func(i int, content []byte) ([]byte, error) {
			if i == 12 {
				content = content[1:]
			}
			return content, nil
		}, "bytes came", false},
		{"it leaves one out", func(i int, content []byte) ([]byte, error) {
			if i == 12 {
				return nil, nil
			}
			return content, nil
		}, "ended before", false},
		{"it leaves out the first", func(i int, content []byte) ([]byte, error) {
			if i == 0 {
				return nil, nil
			}
			return content, nil
		}, "ended before", true},
	} {
		c := newCard(t, 18<<20)
		_, err := flash.Write(background, c, &stream{im: im.unsummed(), wrong: test.wrong}, flash.Options{})
		var is *flash.SourceError
		if !errors.As(err, &is) || !strings.Contains(err.Error(), test.err) || errors.Is(err, flash.ErrUnfinished) == test.early || boots(c) {
			t.Errorf("%s: %v", test.summary, err)
		}
	}
}

func TestBadMaps(t *testing.T) {
	im := newImage(3<<20, 6, 1)
	for _, test := range []struct {
		summary string
		edit    func(m *bmap.Map)
		block   int
		err     string
	}{
		{"out of order", func(m *bmap.Map) { slices.Reverse(m.Ranges) }, 512, "out of order"},
		{"too long a range", func(m *bmap.Map) { m.Ranges = []bmap.Range{{First: 0, Last: 200}} }, 512, "crosses"},
		{"past the end", func(m *bmap.Map) { m.Ranges = []bmap.Range{{First: 10000, Last: 10000}} }, 512, "past the image's end"},
		{"no blocks", func(m *bmap.Map) { m.BlockSize = 0 }, 512, "blocks of 0"},
		{"no SHA-256", func(m *bmap.Map) { m.Ranges[1].Checksum = "abc" }, 512, "no SHA-256"},
		{"smaller blocks than the card's", func(m *bmap.Map) {
			m.BlockSize, m.Ranges = 512, []bmap.Range{{First: 0, Last: 8}}
		}, 4096, "whole blocks of the card"},
		{"a card of strange blocks", func(m *bmap.Map) {}, 520, "blocks of 520"},
	} {
		bad := im.changed()
		test.edit(bad.m)
		c := newCard(t, 8<<20)
		c.block = test.block
		_, err := flash.Write(background, c, bad, flash.Options{})
		if err == nil || !strings.Contains(err.Error(), test.err) || errors.Is(err, flash.ErrUnfinished) {
			t.Errorf("%s: %v", test.summary, err)
		}
		if n, _ := c.count("write"); n > 0 {
			t.Errorf("%s: %d writes", test.summary, n)
		}
	}
}

// Maps of others count in other blocks, and may leave out the first.
func TestSmallBlocks(t *testing.T) {
	im := newImage(3<<20, 6, 1)
	im.m.BlockSize = 512
	im.m.Ranges = []bmap.Range{{First: 0, Last: 0}, {First: 2, Last: 3}, {First: 7, Last: 9}, {First: 10, Last: 10}, {First: 2000, Last: 2047}}
	im.sum()
	for name, source := range sources(im) {
		c := newCard(t, 8<<20)
		r := write(t, c, source(), flash.Options{})
		holds(t, c, im)
		if r.Mapped != 55*512 || r.Written < 48*512+3*512+4096 {
			t.Errorf("%s: %+v", name, r)
		}
		if r := write(t, c, source(), flash.Options{Mode: flash.Delta}); !r.Untouched {
			t.Errorf("%s: %+v", name, r)
		}
	}
	im.m.Ranges = im.m.Ranges[4:]
	c := newCard(t, 8<<20)
	write(t, c, im, flash.Options{})
	holds(t, c, im)
	for i, b := range c.data[:4096] {
		if b != 0 {
			t.Fatalf("nothing is mapped there, but byte %d is %#x", i, b)
		}
	}
}

// together is a source of many decoders that wait for each other: none has its
// second piece before all had their first taken.
type together struct{ im *image }

func (s together) Map() *bmap.Map { return s.im.m }
func (s together) Pieces(ctx context.Context, wanted []int, give func(int, []byte) error) error {
	if len(wanted) == 1 {
		return (&stream{im: s.im}).Pieces(ctx, wanted, give)
	}
	const each = 8
	var first, all sync.WaitGroup
	errs := make(chan error, len(wanted))
	for part := range slices.Chunk(wanted, each) {
		first.Add(1)
		all.Go(func() {
			lent := make([]byte, flash.PieceSize)
			for k, i := range part {
				off, n := s.im.m.Bytes(s.im.m.Ranges[i])
				copy(lent, s.im.data[off:off+n])
				errs <- give(i, lent[:n])
				if k == 0 {
					first.Done()
					first.Wait()
				}
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// However many pieces are under way at once, they find buffers.
func TestManyDecoders(t *testing.T) {
	im := newImage(4*40<<20, 10, 1)
	c := newCard(t, 170<<20)
	ctx, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	if _, err := flash.Write(ctx, c, together{im}, flash.Options{}); err != nil {
		t.Fatal(err)
	}
	holds(t, c, im)
}

// endless is a large image that takes no memory, and void a card that keeps
// nothing of the data.
type endless struct{ m *bmap.Map }

func (s endless) Map() *bmap.Map { return s.m }
func (s endless) Pieces(ctx context.Context, wanted []int, give func(int, []byte) error) error {
	lent := make([]byte, flash.PieceSize)
	for _, i := range wanted {
		_, n := s.m.Bytes(s.m.Ranges[i])
		if err := give(i, lent[:n]); err != nil {
			return err
		}
	}
	return nil
}

type endlessReader struct{ endless }

func (s endlessReader) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

type void struct {
	mu   sync.Mutex
	kept map[int64][]byte
	size int64
}

func (v *void) Size() int64                { return v.size }
func (v *void) BlockSize() int             { return 512 }
func (v *void) Sync() error                { return nil }
func (v *void) Discard(off, n int64) error { return errors.ErrUnsupported }
func (v *void) ReadAt(p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(p)
	for i := int64(0); i < int64(len(p)); i += 512 {
		copy(p[i:], v.kept[off+i])
	}
	return len(p), nil
}
func (v *void) WriteAt(p []byte, off int64) (int, error) {
	if len(p) <= 4096 {
		v.mu.Lock()
		defer v.mu.Unlock()
		for i := int64(0); i < int64(len(p)); i += 512 {
			v.kept[off+i] = slices.Clone(p[i : i+512])
		}
	}
	return len(p), nil
}

// TestMemory sees what the engine takes for a large image: with reading back
// and all, less than 64 MiB.
func TestMemory(t *testing.T) {
	m := &bmap.Map{ImageSize: 1 << 30, BlockSize: 4096, ChecksumType: bmap.SHA256}
	for b := int64(0); b < m.ImageSize/4096; b += 128 {
		m.Ranges = append(m.Ranges, bmap.Range{First: b, Last: b + 127})
	}
	for name, source := range map[string]flash.Source{"streamed": endless{m}, "read": endlessReader{endless{m}}} {
		card := &void{size: 8 << 30, kept: map[int64][]byte{}}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := write(t, card, source, flash.Options{InFlight: 8})
		runtime.ReadMemStats(&after)
		took := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %d MiB", name, took>>20)
		if r.Verified < m.ImageSize-4096 || took > 64<<20 {
			t.Errorf("%s: %d bytes for %+v", name, took, r)
		}
	}
}

// A mixed source was changed while it was read.
type mixed struct{ flash.Source }

func (mixed) Unchanged() error { return errors.New("it changed while it was read") }

// TestChangedSource is of a card that would hold a part of one image and a part of
// another: it does not boot.
func TestChangedSource(t *testing.T) {
	im := newImage(9<<20, 6, 1)
	c := newCard(t, 18<<20)
	r, err := flash.Write(background, c, mixed{sources(im)["streamed"]()}, flash.Options{})
	var changed *flash.SourceError
	if !errors.Is(err, flash.ErrUnfinished) || !errors.As(err, &changed) || r.Written == 0 {
		t.Errorf("%v, %+v", err, r)
	}
	if c.data[510] == 0x55 {
		t.Error("the card boots")
	}
}

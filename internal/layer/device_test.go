package layer_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
)

// memory is a parent that lies in memory.
type memory struct {
	*bytes.Reader
	content []byte
	digest  digest.Digest
}

func inMemory(content []byte) memory {
	sum := sha256.Sum256(content)
	return memory{bytes.NewReader(content), content, digest.NewDigestFromBytes(digest.SHA256, sum[:])}
}

func (m memory) Digest() digest.Digest { return m.digest }

// noise gives n bytes in which runs of zeros and of other bytes take turns.
func noise(rnd *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := 0; i < n; {
		end := min(i+1+rnd.IntN(3*layer.BlockSize), n)
		if rnd.IntN(3) > 0 {
			for j := i; j < end; j++ {
				p[j] = byte(rnd.Uint32())
			}
		}
		i = end
	}
	return p
}

// baseFile makes a base of the given content.
func baseFile(t testing.TB, content []byte) *layer.Base {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.img")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := layer.OpenBase(path, digest.FromBytes(content))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func create(t testing.TB, parent layer.Parent, size int64) *layer.Layer {
	t.Helper()
	l, err := layer.Create(filepath.Join(t.TempDir(), "top.layer"), parent, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Abandon() })
	return l
}

func write(t testing.TB, l *layer.Layer, off int64, p []byte) {
	t.Helper()
	if n, err := l.WriteAt(p, off); err != nil || n != len(p) {
		t.Fatalf("WriteAt(%d bytes, %d): %d, %v", len(p), off, n, err)
	}
}

func seal(t testing.TB, l *layer.Layer) digest.Digest {
	t.Helper()
	d, err := l.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sameContent reads all of p and compares.
func sameContent(t testing.TB, p layer.Parent, want []byte) {
	t.Helper()
	got := make([]byte, p.Size())
	if n, err := p.ReadAt(got, 0); n < len(got) {
		t.Fatalf("ReadAt: %d of %d bytes, %v", n, len(got), err)
	}
	if at := differ(got, want); at >= 0 {
		t.Fatalf("content differs at byte %d (block %d)", at, at/layer.BlockSize)
	}
}

// differ gives where a and b differ first, -1 where they do not.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// A change is a random write or discard.
type change struct {
	off, n  int64
	data    []byte // nil: a discard
	summary string
}

func randomChange(rnd *rand.Rand, size int64) change {
	c := change{off: rnd.Int64N(size)}
	switch rnd.IntN(3) {
	case 0: // somewhere within a block or two
		c.n = rnd.Int64N(2*layer.BlockSize) + 1
	case 1: // whole blocks
		c.off -= c.off % layer.BlockSize
		c.n = (rnd.Int64N(8) + 1) * layer.BlockSize
	default:
		c.n = rnd.Int64N(size/2) + 1
	}
	c.n = min(c.n, size-c.off)
	if rnd.IntN(4) > 0 {
		c.data = noise(rnd, int(c.n))
	}
	c.summary = fmt.Sprintf("off=%d n=%d discard=%v", c.off, c.n, c.data == nil)
	return c
}

func (c change) model(content []byte) {
	if c.data != nil {
		copy(content[c.off:], c.data)
	} else {
		clear(content[c.off : c.off+c.n])
	}
}

func (c change) apply(l *layer.Layer) error {
	if c.data == nil {
		return l.Discard(c.off, c.n)
	}
	_, err := l.WriteAt(c.data, c.off)
	return err
}

// TestRandomOperations compares chains of up to three layers with a slice of
// bytes, through reopening and sealing.
func TestRandomOperations(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			// Ends within a block, and lies across two of the map's buckets
			// where the seed is even.
			size := int64(64*layer.BlockSize + 512*rnd.IntN(20))
			far := int64(0)
			if seed%2 == 0 {
				far = 4096*layer.BlockSize - 32*layer.BlockSize
			}
			content := append(make([]byte, far), noise(rnd, int(size))...)
			var parent layer.Parent = baseFile(t, content)
			dir := t.TempDir()
			for depth := range 3 {
				grown := int64(512 * rnd.IntN(40))
				content = append(content, make([]byte, grown)...)
				size := int64(len(content))
				path := filepath.Join(dir, fmt.Sprint(depth))
				l, err := layer.Create(path, parent, size)
				if err != nil {
					t.Fatal(err)
				}
				for range 100 {
					switch rnd.IntN(12) {
					case 0:
						if err := l.Flush(); err != nil {
							t.Fatal(err)
						}
					case 1:
						if err := l.Close(); err != nil {
							t.Fatal(err)
						}
						if l, err = layer.Open(path, parent); err != nil {
							t.Fatal(err)
						}
						sameContent(t, l, content)
					default:
						c := randomChange(rnd, size-far)
						c.off += far
						if err := c.apply(l); err != nil {
							t.Fatalf("%s: %v", c.summary, err)
						}
						c.model(content)
					}
					off := far + rnd.Int64N(size-far)
					got := make([]byte, rnd.Int64N(size-off)+1)
					if _, err := l.ReadAt(got, off); err != nil {
						t.Fatal(err)
					}
					if at := differ(got, content[off:off+int64(len(got))]); at >= 0 {
						t.Fatalf("content differs at byte %d", off+int64(at))
					}
				}
				sameContent(t, l, content)
				d := seal(t, l)
				sameContent(t, l, content)
				if err := l.Verify(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				if l, err = layer.Open(path, parent); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				if !l.Sealed() || l.Digest() != d {
					t.Fatalf("reopened: sealed %v, digest %s, want %s", l.Sealed(), l.Digest(), d)
				}
				if err := l.Verify(t.Context()); err != nil {
					t.Fatal(err)
				}
				sameContent(t, l, content)
				parent = l
			}
			checkImages(t, rnd, parent, content)
		})
	}
}

func TestReadAtEnds(t *testing.T) {
	l := create(t, inMemory(bytes.Repeat([]byte{7}, 5000)), 8192+512)
	buf := make([]byte, 10000)
	n, err := l.ReadAt(buf, 4000)
	if n != 8704-4000 || err != io.EOF {
		t.Fatalf("across the end: %d, %v", n, err)
	}
	if want := append(bytes.Repeat([]byte{7}, 1000), make([]byte, 9000)...); !bytes.Equal(buf, want) {
		t.Fatal("past the parent's end there are no zeros")
	}
	if n, err := l.ReadAt(buf, 8704); n != 0 || err != io.EOF {
		t.Fatalf("at the end: %d, %v", n, err)
	}
	if _, err := l.ReadAt(buf, -1); err == nil {
		t.Fatal("no error at a negative offset")
	}
	for _, c := range []struct{ off, n int64 }{{8704, 1}, {8000, 1000}, {-1, 5}, {1 << 62, 1 << 62}} {
		if c.n < 1<<20 {
			if _, err := l.WriteAt(make([]byte, c.n), c.off); err == nil {
				t.Errorf("no error from WriteAt(%d bytes, %d)", c.n, c.off)
			}
		}
		if err := l.Discard(c.off, c.n); err == nil {
			t.Errorf("no error from Discard(%d, %d)", c.off, c.n)
		}
	}
	if _, err := l.WriteAt(make([]byte, 1000), 8000); !errors.Is(err, layer.ErrPastEnd) {
		t.Errorf("got %v, want ErrPastEnd", err)
	}
	if l.DataSize() != 0 || l.Extents() != nil {
		t.Error("something refused left a trace")
	}
}

func TestExtents(t *testing.T) {
	block := bytes.Repeat([]byte{1}, layer.BlockSize)
	l := create(t, inMemory(bytes.Repeat([]byte{9}, 1<<20)), 1<<20)
	write(t, l, 8*4096, block)
	write(t, l, 10*4096, block)
	write(t, l, 9*4096, block) // lies elsewhere in the file, but adjoins
	write(t, l, 11*4096, make([]byte, 8192))
	if err := l.Discard(1<<20-4096, 4096); err != nil {
		t.Fatal(err)
	}
	want := []layer.Extent{{Offset: 32768, Length: 12288}, {Offset: 45056, Length: 8192, Zero: true}, {Offset: 1<<20 - 4096, Length: 4096, Zero: true}}
	if diff := cmp.Diff(want, l.Extents()); diff != "" {
		t.Error(diff)
	}
	if l.DataSize() != 3*4096 {
		t.Errorf("DataSize %d", l.DataSize())
	}
}

// TestContent gives the digest without sealing, and changes nothing.
func TestContent(t *testing.T) {
	under := inMemory(bytes.Repeat([]byte{9}, 1<<20))
	content := func(l *layer.Layer) string {
		t.Helper()
		d, err := l.Content()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	l := create(t, under, 1<<20)
	empty := content(l)
	write(t, l, 8*4096, bytes.Repeat([]byte{1}, layer.BlockSize))
	write(t, l, 12*4096, bytes.Repeat([]byte{9}, layer.BlockSize)) // as it was
	one := content(l)
	if one == empty || l.Digest() != "" || l.Sealed() {
		t.Errorf("%s of an empty one, %s of another, digest %q", empty, one, l.Digest())
	}
	write(t, l, 9*4096, make([]byte, layer.BlockSize))
	two := content(l)
	sealed, err := l.Seal()
	if err != nil {
		t.Fatal(err)
	}
	if two == one || sealed.String() != two || content(l) != two {
		t.Errorf("%s before, %s sealed as %s", one, two, sealed)
	}
}

// TestSpaceIsUsedAgain writes the same blocks over and over, with flushes: a
// device that lives for months must not let its file grow.
func TestSpaceIsUsedAgain(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	l, err := layer.CreateOn(&disk{}, inMemory(make([]byte, 4<<20)), 4<<20) // 1024 blocks
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		c := randomChange(rnd, 1<<20)
		if err := c.apply(l); err != nil {
			t.Fatal(err)
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	// 256 blocks are written; twice that for what a flush replaces, and the map.
	if got := l.FileBlocks(); got > 1000 {
		t.Errorf("the file has grown to %d blocks", got)
	}
	if got := l.Segments(); got > 128 {
		t.Errorf("%d map segments", got)
	}
}

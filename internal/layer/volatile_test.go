package layer_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"hatchery/internal/layer"
)

func TestVolatile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	fill := func(p []byte) {
		for i := range p {
			p[i] = byte(random.Uint32())
		}
	}
	for _, test := range []struct {
		summary     string
		below, size int64
	}{
		{"as large as the parent", 10 * layer.BlockSize, 10 * layer.BlockSize},
		{"larger", 10 * layer.BlockSize, 25*layer.BlockSize + 512},
		{"ends within a block", 10*layer.BlockSize + 512, 12 * layer.BlockSize},
		{"over nothing", 0, 5 * layer.BlockSize},
	} {
		t.Run(test.summary, func(t *testing.T) {
			parent := make([]byte, test.below)
			fill(parent)
			want := append(slices.Clone(parent), make([]byte, test.size-test.below)...)
			before := slices.Clone(parent)
			v, err := layer.NewVolatile(bytes.NewReader(parent), test.below, test.size)
			if err != nil {
				t.Fatal(err)
			}
			written := make([]bool, (test.size+layer.BlockSize-1)/layer.BlockSize)
			for range 300 {
				off := random.Int64N(test.size)
				n := random.Int64N(min(3*layer.BlockSize, test.size-off)) + 1
				p := make([]byte, n)
				if random.IntN(3) == 0 {
					fill(p)
					if m, err := v.WriteAt(p, off); m != len(p) || err != nil {
						t.Fatalf("write %d at %d: %d, %v", n, off, m, err)
					}
					copy(want[off:], p)
					for b := off / layer.BlockSize; b <= (off+n-1)/layer.BlockSize; b++ {
						written[b] = true
					}
				}
				if m, err := v.ReadAt(p, off); m != len(p) || err != nil || !bytes.Equal(p, want[off:off+n]) {
					t.Fatalf("read %d at %d: %d, %v, or other bytes", n, off, m, err)
				}
			}
			whole := make([]byte, test.size+1)
			if n, err := v.ReadAt(whole, 0); int64(n) != test.size || !errors.Is(err, io.EOF) || !bytes.Equal(whole[:n], want) {
				t.Errorf("the whole: %d bytes, %v", n, err)
			}
			for b := range written {
				at := int64(b) * layer.BlockSize
				in := slices.ContainsFunc(v.Extents(), func(e layer.Extent) bool { return e.Offset <= at && at < e.Offset+e.Length })
				if in != written[b] {
					t.Errorf("block %d: in the extents %v, written %v", b, in, written[b])
				}
			}
			if _, err := v.WriteAt([]byte{1, 2}, test.size-1); err == nil {
				t.Error("written past the end")
			}
			if !bytes.Equal(parent, before) {
				t.Error("the parent changed")
			}
		})
	}
}

// TestVolatileContent: a layer and a device in memory to which the same was written say the
// same of it: what a plan shows is what a build makes.
func TestVolatileContent(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, test := range []struct {
		summary     string
		below, size int64
	}{
		{"as large as the parent", 300 * layer.BlockSize, 300 * layer.BlockSize},
		{"larger, and ends within a block", 300 * layer.BlockSize, 700*layer.BlockSize + 512},
		{"the parent ends within a block", 300*layer.BlockSize + 512, 700 * layer.BlockSize},
	} {
		t.Run(test.summary, func(t *testing.T) {
			content := make([]byte, test.below)
			for i := range content[:test.below/2] {
				content[i] = byte(random.Uint32())
			}
			parent := baseFile(t, content)
			l, err := layer.Create(filepath.Join(t.TempDir(), "l"), parent, test.size)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Abandon()
			v, err := layer.NewVolatile(parent, test.below, test.size)
			if err != nil {
				t.Fatal(err)
			}
			same := func(when string) {
				t.Helper()
				want, err := l.Content()
				if err != nil {
					t.Fatal(err)
				}
				if got, err := v.Content(parent); err != nil || got != want {
					t.Errorf("%s: %s, %v; the layer has %s", when, got, err, want)
				}
			}
			same("empty")
			write := func(off int64, p []byte) {
				t.Helper()
				for _, w := range []io.WriterAt{l, v} {
					if _, err := w.WriteAt(p, off); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range 60 {
				off := random.Int64N(test.size)
				p := make([]byte, random.Int64N(min(200*layer.BlockSize, test.size-off))+1)
				switch random.IntN(3) {
				case 0: // zeros
				case 1: // what is there
					if n := copy(p, content[min(off, test.below):]); n < len(p) {
						clear(p[n:])
					}
				case 2:
					for i := range p {
						p[i] = byte(random.Uint32())
					}
				}
				write(off, p)
			}
			same("written to at random")
			write(0, content)
			same("as the parent, in its length")
		})
	}
}

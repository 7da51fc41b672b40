package layer_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
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

package layer_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
)

// deep is a chain as a slot's: a base, two sealed layers, and a top that can be
// written; each layer changes a twentieth of it, in pieces as files are.
func deep(b *testing.B, size int64) (top *layer.Layer) {
	dir := b.TempDir()
	f, err := os.Create(filepath.Join(dir, "base.img"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	p := randomBytes(b, 1<<20)
	for off := int64(0); off < size; off += int64(len(p)) {
		if _, err := f.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	}
	base, err := layer.OpenBase(f.Name(), digest.FromString("base"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { base.Close() })
	var parent layer.Parent = base
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 3 {
		l, err := layer.Create(filepath.Join(dir, fmt.Sprint(i)), parent, size)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Abandon() })
		for left := size / 20; left > 0; {
			n := (rnd.Int64N(32) + 1) * layer.BlockSize
			if _, err := l.WriteAt(p[100:100+n], rnd.Int64N((size-n)/layer.BlockSize)*layer.BlockSize); err != nil {
				b.Fatal(err)
			}
			left -= n
		}
		if i < 2 {
			seal(b, l)
		}
		parent, top = l, l
	}
	return top
}

// BenchmarkDeepRead reads the same places of a chain and of a file in turn,
// and tells how much longer the chain takes, in percent.
func BenchmarkDeepRead(b *testing.B) {
	const size = 256 << 20
	top := deep(b, size)
	flat, err := os.Create(filepath.Join(b.TempDir(), "flat"))
	if err != nil {
		b.Fatal(err)
	}
	defer flat.Close()
	// Pages of its own, so that neither reader warms the other's.
	if err := layer.WriteImage(b.Context(), flat, top, nil); err != nil {
		b.Fatal(err)
	}
	readers := []io.ReaderAt{flat, top}
	for _, n := range []int{4 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			rnd := rand.New(rand.NewPCG(2, 2))
			var took [2]time.Duration
			read := func(i int, off int64) {
				begun := time.Now()
				_, err := readers[i].ReadAt(p, off)
				took[i] += time.Since(begun)
				if err != nil {
					b.Fatal(err)
				}
			}
			for i := 0; b.Loop(); i++ {
				off := rnd.Int64N((size-int64(n))/4096) * 4096
				read(i%2, off)
				read(1-i%2, off)
			}
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(b.N), "ns/file")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(b.N), "ns/chain")
			b.ReportMetric(100*float64(took[1]-took[0])/float64(took[0]), "%slower")
		})
	}
}

// BenchmarkTop makes a top over a chain, as a reset of a slot does, and flushes it.
func BenchmarkTop(b *testing.B) {
	const size = 64 << 20
	below := deep(b, size)
	sealed := below.Parent()
	dir := b.TempDir()
	for _, flush := range []bool{false, true} {
		b.Run(fmt.Sprint("durable=", flush), func(b *testing.B) {
			for b.Loop() {
				l, err := layer.CreateJournaled(filepath.Join(dir, "top"), sealed, 8<<30, layer.Journal{Path: filepath.Join("/dev/shm", fmt.Sprint("hatchery-bench-", os.Getpid()))})
				if errors.Is(err, errors.ErrUnsupported) {
					b.Skip(err)
				}
				if err != nil {
					b.Fatal(err)
				}
				if flush {
					if err := l.Flush(); err != nil {
						b.Fatal(err)
					}
				}
				l.Abandon()
				os.Remove(l.Path())
			}
		})
	}
}

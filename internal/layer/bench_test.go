package layer_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"testing"

	"hatchery/internal/layer"
	"hatchery/internal/testtool"
)

const benchSize = 256 << 20

func randomBytes(b *testing.B, n int) []byte {
	p := make([]byte, n)
	if _, err := io.ReadFull(rand.Reader, p); err != nil {
		b.Fatal(err)
	}
	return p
}

// scratch is a layer over nothing but zeros, made anew for each round.
func scratch(b *testing.B) *layer.Layer {
	l, err := layer.Create(filepath.Join(b.TempDir(), "layer"), zeroParent, benchSize)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

var zeroParent = inMemory(make([]byte, 4096))

func fill(b *testing.B, l *layer.Layer, p []byte) {
	for off := int64(0); off < benchSize; off += int64(len(p)) {
		if _, err := l.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteAt(b *testing.B) {
	for _, c := range []struct {
		summary string
		size    int
	}{{"4KiB", 4096}, {"1MiB", 1 << 20}} {
		b.Run(c.summary, func(b *testing.B) {
			p := randomBytes(b, c.size)
			b.SetBytes(benchSize)
			for b.Loop() {
				l := scratch(b)
				fill(b, l, p)
				b.StopTimer()
				l.Abandon()
				os.Remove(l.Path())
				b.StartTimer()
			}
		})
	}
}

func BenchmarkReadAt(b *testing.B) {
	l := scratch(b)
	defer l.Abandon()
	fill(b, l, randomBytes(b, 1<<20))
	seal(b, l)
	top, err := layer.Create(filepath.Join(b.TempDir(), "top"), l, benchSize)
	if err != nil {
		b.Fatal(err)
	}
	defer top.Abandon()
	for _, c := range []struct {
		summary string
		size    int
	}{{"4KiB", 4096}, {"1MiB", 1 << 20}} {
		b.Run(c.summary, func(b *testing.B) {
			p := make([]byte, c.size)
			b.SetBytes(benchSize)
			for b.Loop() {
				for off := int64(0); off < benchSize; off += int64(len(p)) {
					if _, err := top.ReadAt(p, off); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	p := randomBytes(b, 1<<20)
	b.SetBytes(benchSize)
	for b.Loop() {
		b.StopTimer()
		l := scratch(b)
		fill(b, l, p)
		f, err := os.Open(l.Path()) // the disk's own speed is not ours
		if err == nil {
			err = f.Sync()
			f.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		seal(b, l)
		b.StopTimer()
		l.Abandon()
		os.Remove(l.Path())
		b.StartTimer()
	}
}

func BenchmarkFlush(b *testing.B) {
	l := scratch(b)
	defer l.Abandon()
	fill(b, l, randomBytes(b, 1<<20))
	p := bytes.Repeat([]byte{1}, 4096)
	for i := 0; b.Loop(); i++ {
		if _, err := l.WriteAt(p, int64(i*7919)%(benchSize/4096)*4096); err != nil {
			b.Fatal(err)
		}
		if err := l.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteImage flattens a base of 1 GiB, a quarter of it data, with a
// layer of 64 MiB over it, and lets cp copy the outcome, to compare.
func BenchmarkWriteImage(b *testing.B) {
	dir := b.TempDir()
	f, err := os.Create(filepath.Join(dir, "base.img"))
	if err != nil {
		b.Fatal(err)
	}
	for i := int64(0); i < 256; i++ {
		if _, err := f.WriteAt(randomBytes(b, 1<<20), i*4<<20); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Truncate(1 << 30); err != nil {
		b.Fatal(err)
	}
	f.Close()
	base, err := layer.OpenBase(f.Name(), zeroParent.digest)
	if err != nil {
		b.Fatal(err)
	}
	defer base.Close()
	l, err := layer.Create(filepath.Join(dir, "layer"), base, 1<<30)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Abandon()
	for i := int64(0); i < 1024; i++ { // 64 KiB in each MiB
		if _, err := l.WriteAt(randomBytes(b, 64<<10), i<<20); err != nil {
			b.Fatal(err)
		}
	}
	seal(b, l)
	image, copied := filepath.Join(dir, "image"), filepath.Join(dir, "copy")
	write := func(b *testing.B) {
		dst, err := os.Create(image)
		if err != nil {
			b.Fatal(err)
		}
		defer dst.Close()
		if err := layer.WriteImage(b.Context(), dst, l, nil); err != nil {
			b.Fatal(err)
		}
	}
	write(b)
	run := func(name, makes string, f func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes((256 + 48) << 20)
			for b.Loop() {
				b.StopTimer()
				if err := os.RemoveAll(makes); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				f(b)
			}
		})
	}
	run("cp", copied, func(b *testing.B) {
		testtool.Run(b, "cp", "--sparse=always", image, copied)
	})
	run("WriteImage", image, write)
}

package flash_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"hatchery/imagebuilder/flash"
	"hatchery/internal/bmap"
	"hatchery/internal/testtool"
)

// benchImage has 400 MiB mapped of 640, as an image of Raspberry Pi OS has:
// most of it in one piece, and the rest in many.
func benchImage(b *testing.B) *image {
	im := newImage(640<<20, 6, 1)
	m := im.m
	m.Ranges = nil
	const chunk = flash.PieceSize / 4096
	for first := int64(0); first < m.Blocks(); first += chunk {
		switch at := first * 4096; {
		case at < 360<<20: // packages
			m.Ranges = append(m.Ranges, bmap.Range{First: first, Last: first + chunk - 1})
		case at%(8<<20) == 0: // tables of block groups
			m.Ranges = append(m.Ranges, bmap.Range{First: first, Last: first + 3}, bmap.Range{First: first + 16, Last: first + 32})
		case at%(2<<20) == 0:
			m.Ranges = append(m.Ranges, bmap.Range{First: first, Last: first + 79})
		}
	}
	im.sum()
	return im
}

// BenchmarkWrite writes to a card in memory and to a loop device, with reading
// back and without. Beside it, dd of the same bytes.
func BenchmarkWrite(b *testing.B) {
	im := benchImage(b)
	bytes := im.m.Mapped() * im.m.BlockSize
	for name, source := range map[string]flash.Source{"read": im, "streamed": &stream{im: im}} {
		for _, noVerify := range []bool{true, false} {
			run := func(b *testing.B, c flash.Card) {
				b.SetBytes(bytes)
				for b.Loop() {
					r := write(b, c, source, flash.Options{Mode: flash.Full, NoVerify: noVerify})
					b.ReportMetric(r.Seconds.Write, "s-write")
					b.ReportMetric(r.Seconds.ReadBack, "s-read-back")
				}
			}
			b.Run(fmt.Sprintf("memory/%s/noverify=%v", name, noVerify), func(b *testing.B) {
				run(b, &slab{data: make([]byte, 700<<20)})
			})
			b.Run(fmt.Sprintf("loop/%s/noverify=%v", name, noVerify), func(b *testing.B) { run(b, loopDevice(b, 700<<20)) })
		}
	}
	b.Run("loop/dd", func(b *testing.B) {
		d := loopDevice(b, 700<<20)
		path := filepath.Join(b.TempDir(), "mapped")
		succeed(b, os.WriteFile(path, im.data[:bytes], 0o600))
		b.SetBytes(bytes)
		for b.Loop() {
			testtool.Run(b, "dd", "if="+path, "of="+d.Name(), "bs=4M", "oflag=direct", "conv=fsync,notrunc")
		}
	})
}

// slab is a card in memory that does nothing else.
type slab struct{ data []byte }

func (s *slab) Size() int64                              { return int64(len(s.data)) }
func (s *slab) BlockSize() int                           { return 512 }
func (s *slab) Sync() error                              { return nil }
func (s *slab) Discard(off, n int64) error               { return nil }
func (s *slab) ReadAt(p []byte, off int64) (int, error)  { return copy(p, s.data[off:]), nil }
func (s *slab) WriteAt(p []byte, off int64) (int, error) { return copy(s.data[off:], p), nil }

// BenchmarkDelta writes again: nothing that differs, and one piece in fifty.
func BenchmarkDelta(b *testing.B) {
	im := benchImage(b)
	for _, share := range []int{0, 50} {
		b.Run(fmt.Sprintf("loop/changed=%d", share), func(b *testing.B) {
			c := loopDevice(b, 700<<20)
			write(b, c, im, flash.Options{})
			var changed []int
			for i := 0; share > 0 && i < len(im.m.Ranges); i += share {
				changed = append(changed, i)
			}
			other := im.changed(changed...)
			b.SetBytes(im.m.Mapped() * im.m.BlockSize)
			written := int64(0)
			for i := 0; b.Loop(); i++ {
				written += write(b, c, []*image{other, im}[i%2], flash.Options{Mode: flash.Delta}).Written
			}
			b.ReportMetric(float64(written)/float64(b.N)/(1<<20), "MiB-written/op")
		})
	}
}

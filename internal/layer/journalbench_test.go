//go:build linux

package layer_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"hatchery/internal/layer"
)

// inTmpfs names a file in memory, as a journal's is in real life.
func inTmpfs(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "hatchery-bench-")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "journal")
}

// BenchmarkJournaledWrite writes 4 KiB blocks, each to a place that is new
// since the last flush, so that each takes a record.
func BenchmarkJournaledWrite(b *testing.B) {
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprint("journal=", with), func(b *testing.B) {
			const size = 64 << 20
			p := randomBytes(b, 4096)
			order := rand.New(rand.NewPCG(1, 1)).Perm(size / 4096)
			b.SetBytes(4096)
			var l *layer.Layer
			i := 0
			for b.Loop() {
				if i%len(order) == 0 {
					b.StopTimer()
					if l != nil {
						l.Abandon()
						os.Remove(l.Path())
					}
					path := filepath.Join(b.TempDir(), "layer")
					var err error
					if with {
						l, err = layer.CreateJournaled(path, zeroParent, size, layer.Journal{Path: inTmpfs(b), Size: 1 << 20})
					} else {
						l, err = layer.Create(path, zeroParent, size)
					}
					if err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if _, err := l.WriteAt(p, int64(order[i%len(order)])*4096); err != nil {
					b.Fatal(err)
				}
				i++
			}
			l.Abandon()
		})
	}
}

// BenchmarkOpenJournaled opens a disk of 8 GiB with 1 GiB written, in order or
// in blocks at random, and a journal with 10,000 changes; it tells what memory
// the open layer has.
func BenchmarkOpenJournaled(b *testing.B) {
	const size = 8 << 30
	for _, random := range []bool{false, true} {
		b.Run(fmt.Sprint("random=", random), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "layer")
			j := layer.Journal{Path: inTmpfs(b)}
			l, err := layer.CreateJournaled(path, zeroParent, size, j)
			if err != nil {
				b.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(1, 1))
			p := randomBytes(b, 128<<10)
			n := int64(len(p))
			if random {
				n = 4096
			}
			for off := int64(0); off < 1<<30; off += n {
				at := off
				if random {
					at = rnd.Int64N(size/4096) * 4096
				}
				if _, err := l.WriteAt(p[:n], at); err != nil {
					b.Fatal(err)
				}
			}
			if err := l.Flush(); err != nil {
				b.Fatal(err)
			}
			for range 10000 {
				if _, err := l.WriteAt(p[:4096], rnd.Int64N(size/4096)*4096); err != nil {
					b.Fatal(err)
				}
			}
			l.Die()
			l = nil
			var before, after runtime.MemStats
			for b.Loop() {
				b.StopTimer()
				if l != nil {
					l.Die()
				}
				l = nil
				runtime.GC()
				runtime.ReadMemStats(&before)
				b.StartTimer()
				if l, err = layer.OpenJournaled(path, zeroParent, j); err != nil {
					b.Fatal(err)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if how, n := l.Recovered(); how != layer.Replayed || n < 5000 {
				b.Fatalf("%s, %d changes", how, n)
			}
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/1024, "KiB/layer")
			l.Abandon()
		})
	}
}

package preserve_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// BenchmarkSave saves 1 GB of volumes over TLS and puts it back, both ends in this
// process, and packs it as the node does for its own memory.
func BenchmarkSave(b *testing.B) {
	l := newLab(b, nil)
	must(b, l.node().Restore(b.Context(), nil))
	// Half of it cannot be compressed; a thousand files of 1 MiB and ten thousand of 2 KiB.
	noise := rand.NewChaCha8([32]byte{1})
	content := make([]byte, 1<<20)
	for i := range 1000 {
		_, _ = noise.Read(content[:len(content)/2])
		l.lay(fmt.Sprintf("docker/volumes/v%d/_data/%d", i%10, i), string(content))
	}
	for i := range 10000 {
		l.lay(fmt.Sprintf("docker/volumes/small/_data/%d/%d", i%100, i), string(bytes.Repeat([]byte{byte(i)}, 2048)))
	}
	plan, err := l.node().Plan(b.Context())
	must(b, err)
	megabytes := float64(plan.Bytes) / 1e6
	for b.Loop() {
		began := time.Now()
		must(b, l.keeper.Save(b.Context(), 2, "", nil))
		b.ReportMetric(megabytes/time.Since(began).Seconds(), "MB/s-saved")
		l.newRoot()
		began = time.Now()
		must(b, l.node().Restore(b.Context(), nil))
		b.ReportMetric(megabytes/time.Since(began).Seconds(), "MB/s-restored")
		v := l.keeper.View()
		b.ReportMetric(float64(v[0].Stored)/1e6, "MB-stored")

		// The node's part alone.
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		peak := make(chan uint64)
		ctx, done := context.WithCancel(b.Context())
		go func() {
			most := uint64(0)
			for ctx.Err() == nil {
				runtime.ReadMemStats(&after)
				most = max(most, after.HeapAlloc)
				time.Sleep(5 * time.Millisecond)
			}
			peak <- most
		}()
		began = time.Now()
		_, err := l.node().Pack(b.Context(), nothing{}, plan.Roots, 1<<40)
		must(b, err)
		b.ReportMetric(megabytes/time.Since(began).Seconds(), "MB/s-packed")
		done()
		b.ReportMetric(float64(<-peak-before.HeapAlloc)/(1<<20), "MiB-packing")
	}
	_ = os.RemoveAll(filepath.Join(l.dir, "docker"))
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }

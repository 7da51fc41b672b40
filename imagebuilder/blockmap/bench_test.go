package blockmap_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"hatchery/imagebuilder/blockmap"
	"hatchery/internal/layer"
	"hatchery/internal/testtool"
)

// built gives what `hatchery build` left in the folder $HATCHERY_BENCH_OUT,
// over the raw base $HATCHERY_BENCH_BASE.
func built(b *testing.B) (*layer.Base, []*layer.Layer) {
	out, base := os.Getenv("HATCHERY_BENCH_OUT"), os.Getenv("HATCHERY_BENCH_BASE")
	if out == "" || base == "" {
		testtool.Missing(b, "HATCHERY_BENCH_OUT, a folder that hatchery build wrote, and HATCHERY_BENCH_BASE, the raw image it was built from")
	}
	data, err := os.ReadFile(filepath.Join(out, "manifest.json"))
	succeed(b, err)
	var manifest struct {
		Targets []struct {
			Base   struct{ Digest digest.Digest }
			Layers []struct{ File string }
		}
	}
	succeed(b, json.Unmarshal(data, &manifest))
	lower, err := layer.OpenBase(base, manifest.Targets[0].Base.Digest)
	succeed(b, err)
	b.Cleanup(func() { lower.Close() })
	var layers []*layer.Layer
	for _, t := range manifest.Targets {
		l, err := layer.Open(filepath.Join(out, t.Layers[0].File), lower)
		succeed(b, err)
		b.Cleanup(func() { l.Close() })
		layers = append(layers, l)
	}
	return lower, layers
}

func BenchmarkMapped(b *testing.B) {
	base, layers := built(b)
	for _, c := range []struct {
		summary string
		disk    blockmap.Disk
	}{{"base", base}, {"target", layers[0]}} {
		b.Run(c.summary, func(b *testing.B) {
			for b.Loop() {
				_, err := blockmap.Mapped(c.disk, c.disk.Size())
				succeed(b, err)
			}
		})
	}
}

// What a base costs once.
func BenchmarkSum(b *testing.B) {
	base, _ := built(b)
	for b.Loop() {
		_, err := blockmap.Sum(context.Background(), base, base.Digest(), nil)
		succeed(b, err)
	}
}

func BenchmarkLoad(b *testing.B) {
	base, _ := built(b)
	sums, err := blockmap.Sum(context.Background(), base, base.Digest(), nil)
	succeed(b, err)
	path := filepath.Join(b.TempDir(), "sums")
	succeed(b, sums.Save(path))
	for b.Loop() {
		_, err := blockmap.Load(path, base.Digest(), base.Size())
		succeed(b, err)
	}
}

// What a build costs: each target's map, two at a time as images are written,
// with the base's checksums in the cache and without any.
func BenchmarkTargets(b *testing.B) {
	base, layers := built(b)
	sums, err := blockmap.Sum(context.Background(), base, base.Digest(), nil)
	succeed(b, err)
	for _, c := range []struct {
		summary string
		targets []*layer.Layer
		sums    *blockmap.Checksums
	}{
		{"one", layers[:1], sums},
		{"all", layers, sums},
		{"all-without-base", layers, nil},
	} {
		b.Run(c.summary, func(b *testing.B) {
			var read progressSum
			for b.Loop() {
				read.n.Store(0)
				var group errgroup.Group
				group.SetLimit(2)
				for _, l := range c.targets {
					group.Go(func() error {
						m, err := blockmap.Compute(context.Background(), "image", l, l.Extents(), c.sums, &read)
						if err != nil {
							return err
						}
						return m.Write(&bytes.Buffer{})
					})
				}
				succeed(b, group.Wait())
			}
			b.ReportMetric(float64(read.n.Load())/1e6, "MB-read/op")
			b.ReportMetric(0, "allocs/op")
			m, err := blockmap.Compute(context.Background(), "image", c.targets[0], c.targets[0].Extents(), c.sums, nil)
			succeed(b, err)
			var text strings.Builder
			succeed(b, m.Write(&text))
			b.ReportMetric(float64(len(m.Ranges)), "ranges")
			b.ReportMetric(float64(text.Len())/1e3, "KB-map")
			b.ReportMetric(float64(m.Mapped()*m.BlockSize)/1e6, "MB-mapped")
		})
	}
}

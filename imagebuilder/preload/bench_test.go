package preload_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"hatchery/imagebuilder/preload"
)

// benchImages are of the size that images for a Zero have: four layers of
// 16 MiB, half of which compresses well, and 2,000 files.
func benchImages(b *testing.B, format string) (preload.Options, string) {
	r, all := newRegistry(b), newBlobs()
	random := rand.NewChaCha8([32]byte{})
	var layers []layerSpec
	for l := range 4 {
		var files []file
		for f := range 500 {
			content := make([]byte, 32<<10)
			random.Read(content[:len(content)/2])
			files = append(files, file{name: fmt.Sprintf("usr/lib/%d/%d", l, f), content: string(content)})
		}
		layers = append(layers, layerSpec{format: format, tar: layerTar(b, files...)})
	}
	r.push(b, "xy", all, map[string]descriptor{"1": all.image(b, armv6, layers...)})
	b.SetBytes(4 * 500 * 32 << 10)
	b.ResetTimer()
	return options(b), r.host + "/xy:1"
}

// BenchmarkFetch is from nothing to all layers in the cache, checked.
func BenchmarkFetch(b *testing.B) {
	for _, format := range []string{"gzip", "zstd"} {
		b.Run(format, func(b *testing.B) {
			o, ref := benchImages(b, format)
			for b.Loop() {
				o.Cache = b.TempDir()
				mustGet(b, o, armv6, ref)
			}
		})
	}
}

// BenchmarkArchive is from the cache to the archive.
func BenchmarkArchive(b *testing.B) {
	o, ref := benchImages(b, "gzip")
	images := mustGet(b, o, armv6, ref)
	for b.Loop() {
		if err := preload.Archive(io.Discard, images, archiveTime); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFiles visits all files and reads the first bytes of each.
func BenchmarkFiles(b *testing.B) {
	o, ref := benchImages(b, "gzip")
	images := mustGet(b, o, armv6, ref)
	head := make([]byte, 4)
	for b.Loop() {
		err := images[0].Files(b.Context(), func(_ string, _ int64, r io.ReaderAt) error {
			_, err := r.ReadAt(head, 0)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

package imagefile_test

import (
	"os"
	"testing"

	"hatchery/imagebuilder/imagefile"
)

// BenchmarkPieces takes everything out of the image file that IMAGE_BENCH_FILE
// names, with the block map beside it, or out of a miniature in an .xz.
func BenchmarkPieces(b *testing.B) {
	path := os.Getenv("IMAGE_BENCH_FILE")
	if path == "" {
		image, _ := miniature(b)
		path = makerOf(b, "xz of many blocks").pack(b, image)
	}
	for b.Loop() {
		s, err := imagefile.Open(background, path, imagefile.Options{})
		succeed(b, err)
		total := int64(0)
		succeed(b, s.Pieces(background, all(s.Map()), func(_ int, content []byte) error {
			total += int64(len(content))
			return nil
		}))
		succeed(b, s.Close())
		b.SetBytes(total)
	}
}

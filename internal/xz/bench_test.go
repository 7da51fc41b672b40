package xz_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"

	"hatchery/internal/xz"
)

type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// benchFile is the file that XZ_BENCH_FILE names (compare with `xz -T0 -dc`
// and `xz -T1 -dc` of the same), or one that the xz tool makes.
func benchFile(b *testing.B) []byte {
	if name := os.Getenv("XZ_BENCH_FILE"); name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	return compress(b, text(1, 32<<20), "-T2", "-3", "--block-size=4MiB")
}

func BenchmarkDecode(b *testing.B) {
	file := benchFile(b)
	for b.Loop() {
		n, err := xz.Decode(context.Background(), bytes.NewReader(file), int64(len(file)), nowhere{}, xz.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

func BenchmarkReader(b *testing.B) {
	file := benchFile(b)
	for b.Loop() {
		r, err := xz.NewReader(bytes.NewReader(file))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

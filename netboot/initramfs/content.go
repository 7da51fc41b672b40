package initramfs

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"hatchery/internal/xz"
)

// decompressed gives what a module's file holds, by its name's end.
func decompressed(raw []byte, extension string) ([]byte, error) {
	var r io.Reader
	switch extension {
	case ".ko":
		return raw, nil
	case ".gz":
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		r = z
	case ".xz":
		z, err := xz.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		r = z
	case ".zst":
		z, err := newZstd(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("modules that end with %q are not known", extension)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(b) > maxModule {
		err = fmt.Errorf("it has more than %d MiB", maxModule>>20)
	}
	return b, err
}

// newZstd decodes with one goroutine, and a window of at most 128 MiB: what
// zstd's highest level uses, with which kernels are compressed.
func newZstd(r io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderMaxMemory(256<<20))
}

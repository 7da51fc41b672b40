package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/sparse"
)

// A Base is a raw image file at the bottom of a chain.
type Base struct {
	f      *os.File
	size   int64
	digest digest.Digest
}

// OpenBase opens an image whose content has the digest d, a SHA-256. That is
// taken on trust, since whoever put the file there has checked it; [Base.Verify]
// looks again.
func OpenBase(path string, d digest.Digest) (*Base, error) {
	if _, err := digestBytes(d); err != nil {
		return nil, fmt.Errorf("cannot open the base %s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("cannot open the base %s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Base{f, info.Size(), d}, nil
}

// ReadAt implements [io.ReaderAt].
func (b *Base) ReadAt(p []byte, off int64) (int, error) { return b.f.ReadAt(p, off) }

// Size gives the length of the image in bytes.
func (b *Base) Size() int64 { return b.size }

// Digest gives the SHA-256 that the base was opened with.
func (b *Base) Digest() digest.Digest { return b.digest }

// Path gives the name under which the image was opened.
func (b *Base) Path() string { return b.f.Name() }

// Close closes the image.
func (b *Base) Close() error { return b.f.Close() }

// Verify reads the image and compares it with the digest: an error matches
// [ErrCorrupt] where it differs.
func (b *Base) Verify(ctx context.Context) error {
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	var zeros [64 << 10]byte
	done := int64(0)
	skip := func(to int64) error {
		for done < to {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(to-done, int64(len(zeros)))
			sum.Write(zeros[:n])
			done += n
		}
		return nil
	}
	for seg, err := range sparse.Segments(b.f, 0, b.size) {
		if err == nil {
			err = skip(seg.Offset)
		}
		if err != nil {
			return fmt.Errorf("cannot verify %s: %w", b.Path(), err)
		}
		for r := io.NewSectionReader(b.f, seg.Offset, seg.Length); done < seg.Offset+seg.Length; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := r.Read(buf)
			if err != nil {
				return fmt.Errorf("cannot verify %s: %w", b.Path(), err)
			}
			sum.Write(buf[:n])
			done += int64(n)
		}
	}
	if err := skip(b.size); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != b.digest {
		return &CorruptError{b.Path(), 0, fmt.Sprintf("its content has the digest %s, not %s", got, b.digest)}
	}
	return nil
}

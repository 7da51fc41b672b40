package baseimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/filekind"
	"hatchery/internal/atomicfile"
	"hatchery/internal/sparse"
)

// prepare makes the cached image from a source. The caller holds the source's
// lock.
func (c *Cache) prepare(ctx context.Context, src *source) (image *Image, err error) {
	c.sweep()
	f, err := c.open(ctx, src)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}

	partial := c.partialImage(src)
	defer os.Remove(partial) // does nothing once it is in its place
	out, err := c.unpack(ctx, src, f, info.Size(), partial)
	if err != nil {
		return nil, err
	}
	if src.url == "" {
		if err := src.unchanged(f); err != nil {
			return nil, err
		}
	}
	if out.size%512 != 0 {
		return nil, inputErrorf("the image has %d bytes, which is no whole number of sectors: it was cut short somewhere; get it again", out.size)
	}
	if err := src.checkImage(out); err != nil {
		return nil, err
	}
	use, err := c.use(ctx, out.digest)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			use.Close()
		}
	}()
	if err := c.keep(ctx, src, partial, out); err != nil {
		return nil, err
	}
	c.used(out.digest)
	r := sourceRecord{Format: recordFormat, Image: out.digest, SourceSize: info.Size(), Name: src.name}
	if err := writeRecord(c.record("source", src.digest.Encoded()), r); err != nil {
		return nil, err
	}
	if src.url != "" {
		f.Close()
		c.forgetDownload(src.digest) // the image is what is needed from now on
	}
	return &Image{
		Path: c.imagePath(out.digest), Digest: out.digest, Size: out.size,
		Source: src.name, SourceDigest: src.digest, SourceSize: info.Size(), use: use,
	}, nil
}

// open gives the verified source file.
func (c *Cache) open(ctx context.Context, src *source) (*os.File, error) {
	if src.url != "" {
		return c.download(ctx, src)
	}
	f, _, err := openRegular(src.path)
	if err != nil {
		return nil, err
	}
	if err := src.unchanged(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unpacked is a raw image that is written but not yet in its place.
type unpacked struct {
	digest digest.Digest
	size   int64
}

// unpack writes the raw image of f, which has the given size, to place. The
// file is synced and closed.
func (c *Cache) unpack(ctx context.Context, src *source, f *os.File, size int64, place string) (u unpacked, err error) {
	head := make([]byte, filekind.HeadSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return u, err
	}
	k := filekind.Of(head[:n])
	if !k.Image() {
		return u, inputErrorf("it %s", k.Is())
	}
	// The lock is ours, so this is a killed build's.
	if err := os.Remove(place); err != nil && !errors.Is(err, os.ErrNotExist) {
		return u, err
	}
	cloned := k.Format == filekind.Raw && sparse.ClonePath(place, f) == nil
	flags := os.O_RDWR
	if !cloned {
		flags |= os.O_CREATE | os.O_EXCL
	}
	dst, err := os.OpenFile(place, flags, 0o600)
	if err != nil {
		return u, err
	}
	defer dst.Close()

	var needed int64 // what the image takes at most, where it is known
	switch {
	case cloned:
		u = unpacked{src.digest, size}
	case k.Format == filekind.XZ:
		u, needed, err = unpackXZ(ctx, src, f, size, dst)
	default:
		u, needed, err = unpackStream(ctx, src, k.Format, f, size, dst)
	}
	if err == nil && k.Format == filekind.Raw && u.digest != src.digest {
		err = errors.New("it changed while it was read; try again once nobody writes to it")
	}
	if err == nil {
		err = dst.Chmod(0o400)
	}
	if err == nil {
		err = dst.Sync()
	}
	if errors.Is(err, syscall.ENOSPC) {
		return u, fmt.Errorf("%s is full%s: make room, or move the cache to a larger disk (XDG_CACHE_HOME): %w",
			c.images(), need(needed), err)
	}
	return u, err
}

func need(n int64) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" (the image has up to %d MiB)", (n+1<<20-1)>>20)
}

// keep moves the image at partial to its place in the cache, unless an equal
// one that came from another source is there.
func (c *Cache) keep(ctx context.Context, src *source, partial string, u unpacked) error {
	unlock, err := c.lock(ctx, "image-"+u.digest.Encoded(), "wait for another build that made the same image", src.report)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := c.intact(ctx, u.digest, src); ok {
		return os.Remove(partial)
	}
	place := c.imagePath(u.digest)
	if err := os.Rename(partial, place); err != nil {
		// Windows replaces no read-only file.
		os.Chmod(place, 0o600)
		os.Remove(place)
		if err := os.Rename(partial, place); err != nil {
			return err
		}
	}
	if err := atomicfile.SyncDir(c.images()); err != nil {
		return err
	}
	info, err := os.Stat(place)
	if err != nil {
		return err
	}
	return c.recordImage(u.digest, stateOf(info))
}

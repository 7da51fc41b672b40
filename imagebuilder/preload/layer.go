package preload

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/cachefile"
)

// A layer is one of an image's: a tar of what it adds, changes and removes.
type layer struct {
	descriptor               // as it was fetched
	diffID     digest.Digest // of the tar in it
	what       part          // for people
	from       blobSource
	layerRecord
}

// A layerRecord is what was found out about a layer by unpacking it.
type layerRecord struct {
	DiffID   digest.Digest
	Unpacked int64 // bytes: of the tar, or of the files in it where those have more (holes)
	Entries  int64
	// Stored is the blob that goes into the archive: the one that was fetched,
	// or the same compressed in a way that Docker 20.10 can read.
	Stored     digest.Digest
	StoredSize int64
	Compressed bool
}

const recordKind = "container layer 1"

const (
	// maxFiles is how many entries the layers of an image may have in all:
	// each takes memory when they are laid over one another.
	maxFiles = 300_000
	// maxNames is how many bytes their names may have in all.
	maxNames = 48 << 20
	// maxName is what the kernel takes (PATH_MAX).
	maxName = 4096
	// maxWindow is the memory that a zstd stream may ask for.
	maxWindow = 32 << 20
)

// check unpacks a layer once and keeps on record what it found.
func (l *layer) check(ctx context.Context, c *cache, o Options) error {
	place := filepath.Join(c.layers(), l.Digest.Encoded())
	if text, err := cachefile.Read(place, recordKind, l.Digest.String(), 4096); err == nil {
		var r layerRecord
		if json.Unmarshal(text, &r) == nil && r.DiffID == l.diffID && r.Unpacked <= o.MostUnpacked && c.has(r.Stored, r.StoredSize) {
			l.layerRecord = r
			return nil
		}
	}
	task := o.Progress.Begin("check "+l.what.String(), l.Size)
	r, err := l.unpack(ctx, c, o.MostUnpacked, task.Add)
	task.End(err)
	if err != nil {
		return fmt.Errorf("its %s: %w", l.what.name, err)
	}
	l.layerRecord = *r
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return cachefile.Write(place, recordKind, l.Digest.String(), text)
}

func (l *layer) unpack(ctx context.Context, c *cache, most int64, done func(int64)) (*layerRecord, error) {
	f, err := c.open(l.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	blob := digest.SHA256.Digester()
	in := io.TeeReader(&countingReader{Reader: &cancelReader{ctx, f}, done: done}, blob.Hash())
	text, format, err := decompress(in)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	unpacked := digest.SHA256.Digester()
	tee := io.Writer(unpacked.Hash())
	// Engines before 23.0 do not know zstd.
	var again *blobWriter
	var gz *gzip.Writer
	if format == "zstd" {
		if again, err = c.begin(); err != nil {
			return nil, err
		}
		defer again.discard()
		gz = gzip.NewWriter(again)
		tee = io.MultiWriter(tee, gz)
	}
	limited := &limitedReader{r: text, left: most}
	whole := io.TeeReader(limited, tee)
	entries, logical, err := checkTar(whole, most)
	if err == nil {
		_, err = io.Copy(io.Discard, whole) // what lies behind the end counts
	}
	// Whatever else is wrong with it, it comes from a blob that has to be the
	// right one.
	if err == nil || !errors.Is(err, errTooLarge) && ctx.Err() == nil {
		_, rest := io.Copy(io.Discard, in)
		if rest == nil && blob.Digest() != l.Digest {
			f.Close() // Windows removes no file that is open
			c.remove(l.Digest)
			return nil, fmt.Errorf("it is damaged in the cache: it was removed, so run the same again")
		}
	}
	switch {
	case errors.Is(err, errTooLarge):
		return nil, inputErrorf("it unpacks to more than %d bytes, which an image may have", most)
	case err != nil:
		return nil, err
	case unpacked.Digest() != l.diffID:
		return nil, inputErrorf("it is not what the image's configuration says: the tar in it is %s, and has to be %s", unpacked.Digest(), l.diffID)
	}
	r := &layerRecord{
		DiffID: l.diffID, Unpacked: max(most-limited.left, logical), Entries: entries,
		Stored: l.Digest, StoredSize: l.Size, Compressed: format != "",
	}
	if again != nil {
		if err := gz.Close(); err != nil {
			return nil, err
		}
		if r.Stored, err = again.commit(); err != nil {
			return nil, err
		}
		r.StoredSize = again.size
	}
	return r, nil
}

// decompress gives the tar in a layer, told by its first bytes as Docker tells
// it, whatever its media type says.
func decompress(r io.Reader) (text io.ReadCloser, format string, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	has := func(magic string) bool { return strings.HasPrefix(string(head), magic) }
	switch {
	case has("\x1f\x8b"):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, "", inputErrorf("what is compressed cannot be read: %w", err)
		}
		return &inputReader{z, z.Close}, "gzip", nil
	case has("\x28\xb5\x2f\xfd"), len(head) > 3 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, "", inputErrorf("what is compressed cannot be read: %w", err)
		}
		return &inputReader{z, func() error { z.Close(); return nil }}, "zstd", nil
	case has("BZh"), has("\xfd7zXZ\x00"):
		return nil, "", inputErrorf("it is compressed with bzip2 or xz, which no registry takes: save or push it with gzip")
	}
	return io.NopCloser(in), "", nil
}

// An inputReader tells what is wrong with compressed data from what is wrong
// with the disk that it comes from.
type inputReader struct {
	io.Reader
	close func() error
}

func (r *inputReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	var path *os.PathError
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &path) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return n, err
	}
	return n, inputErrorf("what is compressed is damaged: %w", err)
}

func (r *inputReader) Close() error { return r.close() }

var errTooLarge = errors.New("too large")

// A limitedReader fails where there is more than was allowed.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1]
	}
	n, err := r.r.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

type countingReader struct {
	io.Reader
	done func(int64)
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.done(int64(n))
	return n, err
}

// checkTar reads a layer's tar to its end, and sees that `docker load` will do
// so too: well-formed, and nothing in it leads out of the image.
func checkTar(r io.Reader, most int64) (entries, logical int64, err error) {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return entries, logical, nil
		}
		if err != nil {
			return 0, 0, tarError(err)
		}
		if entries++; entries > maxFiles {
			return 0, 0, inputErrorf("it has more than %d files", int64(maxFiles))
		}
		if _, err := entryPath(h.Name); err != nil {
			return 0, 0, err
		}
		switch h.Typeflag {
		case tar.TypeLink:
			if _, err := entryPath(h.Linkname); err != nil {
				return 0, 0, err
			}
		case tar.TypeReg, tar.TypeGNUSparse:
			// A file with holes can claim any size.
			if h.Size > most-logical {
				return 0, 0, errTooLarge
			}
			logical += h.Size
		}
	}
}

func tarError(err error) error {
	var input *InputError
	if errors.Is(err, errTooLarge) || errors.As(err, &input) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var path *os.PathError
	if errors.As(err, &path) {
		return err
	}
	return inputErrorf("its tar is damaged: %w", err)
}

// entryPath is the path of a tar's entry in the image: "usr/bin/env", "." for
// the root. Docker refuses what leads out, and so does this.
func entryPath(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case strings.ContainsRune(name, 0) || len(name) > maxName:
		return "", inputErrorf("it has a file whose name is none")
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", inputErrorf("it has a file outside of the image: %q", oneLine(name))
	}
	return clean, nil
}

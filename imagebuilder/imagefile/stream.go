package imagefile

import (
	"archive/zip"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"hatchery/imagebuilder/filekind"
	"hatchery/internal/xz"
)

// maxZstdWindow is the memory that a .zst file may ask for: what `zstd -d`
// allows without --long.
const maxZstdWindow = 128 << 20

// readSize is that of reads where a decoder has no buffer of its own, in bytes.
const readSize = 64 << 10

// stream reads the content from its front to its end. What is seen is lent.
func (p packed) stream(ctx context.Context, see func([]byte) error) error {
	return p.streamCounted(ctx, nil, see)
}

// streamCounted also tells how many bytes of the file were read.
func (p packed) streamCounted(ctx context.Context, read func(int64), see func([]byte) error) error {
	in := &counter{r: io.NewSectionReader(p.f, 0, p.size), add: read}
	r, end, err := p.open(in)
	if err != nil {
		return p.damaged(err, in.n.Load())
	}
	defer end()
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if err := see(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return p.damaged(err, in.n.Load())
		}
	}
}

// open begins to decompress.
func (p packed) open(in *counter) (r io.Reader, end func(), err error) {
	switch p.format {
	case filekind.XZ:
		z, err := xz.NewReader(in)
		return z, func() {}, err
	case filekind.Gzip:
		z, err := gzip.NewReader(bufio.NewReaderSize(in, readSize))
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	case filekind.Zstd:
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case filekind.Zip:
		member, err := imageInZip(in, p.size)
		if err != nil {
			return nil, nil, err
		}
		offset, err := member.DataOffset()
		if err != nil {
			return nil, nil, err
		}
		in.n.Store(offset)
		z, err := member.Open()
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	}
	return nil, nil, fmt.Errorf("the format %d is not compressed", p.format)
}

// damaged tells what is wrong with the file from trouble with reading it.
// Offset is how far it was read, where the error does not say it.
func (p packed) damaged(err error, offset int64) error {
	var system *fs.PathError
	var x *xz.Error
	var said *InputError
	var useless *uselessError
	switch {
	case errors.As(err, &said), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &system):
		return fmt.Errorf("cannot read %s: %w", p.path, bare(err))
	case errors.As(err, &useless):
		return &InputError{p.path, err}
	case errors.Is(err, xz.ErrUnsupported), errors.Is(err, xz.ErrMemory):
		return p.bad("%w; unpack it with xz -d and name the .img", err)
	case errors.As(err, &x):
		return p.bad("%w; %s", err, again)
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return p.bad("it takes more than %d MiB of memory to decompress; unpack it with zstd -d --long=31 and name the .img", maxZstdWindow>>20)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return p.bad("truncated at offset %d; %s", offset, again)
	}
	return p.bad("corrupt before offset %d: %w; %s", offset, err, again)
}

// A uselessError says why a whole file is of no use.
type uselessError struct{ what string }

func (e *uselessError) Error() string { return e.what }

func useless(format string, args ...any) error { return &uselessError{fmt.Sprintf(format, args...)} }

// A counter counts what is read of the file, by decoders of several
// goroutines too.
type counter struct {
	r   *io.SectionReader
	n   atomic.Int64
	add func(int64) // may be nil
}

func (c *counter) count(n int) {
	c.n.Add(int64(n))
	if c.add != nil {
		c.add(int64(n))
	}
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(n)
	return n, err
}

// ReadAt is for zip files, whose one member is read from its front.
func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.count(n)
	return n, err
}

// maxZipDirectory bounds what is read of a zip file to list what it holds.
const maxZipDirectory = 4 << 20

// imageInZip finds the one image in a zip file.
func imageInZip(r io.ReaderAt, size int64) (*zip.File, error) {
	in := &bounded{ReaderAt: r, left: maxZipDirectory}
	archive, err := zip.NewReader(in, size)
	if err != nil {
		return nil, fmt.Errorf("the zip file's directory cannot be read: %w", err)
	}
	in.off = true
	archive.RegisterDecompressor(zip.Deflate, func(r io.Reader) io.ReadCloser { return flate.NewReader(bufio.NewReaderSize(r, readSize)) })
	var images []*zip.File
	var names, imageNames []string
	for _, m := range archive.File {
		if m.FileInfo().IsDir() {
			continue
		}
		names = append(names, m.Name)
		if strings.HasSuffix(strings.ToLower(m.Name), ".img") {
			images = append(images, m)
			imageNames = append(imageNames, m.Name)
		}
	}
	switch {
	case len(images) == 0:
		return nil, useless("the zip file holds no .img: it has %s", list(names))
	case len(images) > 1:
		return nil, useless("the zip file holds several images: %s; unpack the one that is wanted and name that", list(imageNames))
	case images[0].Flags&1 != 0:
		return nil, useless("the image in the zip file is encrypted: unpack it first, and name the .img")
	case images[0].Method != zip.Store && images[0].Method != zip.Deflate:
		return nil, useless("the image in the zip file is compressed by method %d, which is not known here: unpack it first, and name the .img", images[0].Method)
	}
	return images[0], nil
}

// bounded lets no more than so much be read, until that is off.
type bounded struct {
	io.ReaderAt
	left int64
	off  bool
}

func (b *bounded) ReadAt(p []byte, off int64) (int, error) {
	if !b.off {
		if b.left -= int64(len(p)); b.left < 0 {
			return 0, useless("the zip file's directory is larger than %d MiB: it holds more than an image", maxZipDirectory>>20)
		}
	}
	return b.ReaderAt.ReadAt(p, off)
}

// list shows some of the names.
func list(names []string) string {
	const most = 8
	if len(names) == 0 {
		return "nothing at all"
	}
	quoted := make([]string, 0, most+1)
	for _, n := range names[:min(len(names), most)] {
		quoted = append(quoted, fmt.Sprintf("%.80q", n))
	}
	if len(names) > most {
		quoted = append(quoted, fmt.Sprintf("and %d more", len(names)-most))
	}
	return strings.Join(quoted, ", ")
}

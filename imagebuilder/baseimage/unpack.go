package baseimage

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"hatchery/imagebuilder/filekind"
	"hatchery/internal/sparse"
	"hatchery/internal/xz"
)

// maxZstdWindow is the memory that a .zst file may ask for: what `zstd -d`
// allows without --long.
const maxZstdWindow = 128 << 20

const remedy = "download it again, and give its sha256 so that this shows at once"

// damaged says that the source, as it is, gives no image.
func damaged(err error) error { return inputErrorf("%w; %s", err, remedy) }

// checkContent refuses what is not the beginning of a raw image.
func checkContent(head []byte) error {
	switch k := filekind.Of(head); {
	case k.Format == filekind.Raw:
		return nil
	case k.Image():
		return inputErrorf("it is compressed twice: unpack it once first")
	default:
		return inputErrorf("what is compressed in it %s", k.Is())
	}
}

// unpackXZ decodes blocks in parallel; the hash follows.
func unpackXZ(ctx context.Context, src *source, f *os.File, size int64, dst *os.File) (u unpacked, needed int64, err error) {
	if err := checkXZ(f); err != nil {
		return u, 0, err
	}
	total, err := xz.UncompressedSize(f, size)
	if err != nil {
		return u, 0, xzError(err)
	}
	if want := src.image.size; want > 0 && total != want {
		return u, 0, wrongImageSize(want, total)
	}
	w, err := sparse.NewWriter(dst)
	if err != nil {
		return u, total, err
	}
	// The follower reads zeros that are not written, so they must lie
	// within the file from the beginning.
	if err := dst.Truncate(total); err != nil {
		return u, total, err
	}
	task := src.report.Begin("decompress "+src.base(), total)
	defer func() { task.End(err) }()
	hash := follow(dst)
	_, err = xz.Decode(ctx, f, size, w, xz.Options{Prefix: hash.advance, Progress: task.Add})
	if err != nil {
		hash.stop()
		return u, total, xzError(err)
	}
	if u.digest, err = hash.finish(); err != nil {
		return u, total, err
	}
	u.size, err = w.Finish()
	return u, total, err
}

// checkXZ looks at the first bytes of the content before all of it is decoded.
func checkXZ(f *os.File) error {
	r, err := xz.NewReader(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return xzError(err)
	}
	head := make([]byte, filekind.HeadSize)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return xzError(err)
	}
	return checkContent(head[:n])
}

// xzError tells damage to the file from the rest.
func xzError(err error) error {
	var e *xz.Error
	switch {
	case !errors.As(err, &e):
		return err
	case errors.Is(err, xz.ErrUnsupported), errors.Is(err, xz.ErrMemory):
		return inputErrorf("%w; unpack it with xz -d and name the .img", err)
	}
	return damaged(err)
}

// unpackStream unpacks what can only be read from its front.
func unpackStream(ctx context.Context, src *source, format filekind.Format, f *os.File, size int64, dst *os.File) (u unpacked, needed int64, err error) {
	verb, total := "decompress ", size
	in := &counter{r: io.NewSectionReader(f, 0, size)}
	var r io.Reader
	begin := func(io.Reader) error { return nil } // zstd reads ahead once it has a reader
	switch format {
	case filekind.Raw:
		verb, needed = "copy ", size
		r = in
	case filekind.Gzip:
		z, err := gzip.NewReader(in)
		if err != nil {
			return u, 0, streamError(err, in)
		}
		defer z.Close()
		r = z
	case filekind.Zstd:
		z, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return u, 0, streamError(err, in)
		}
		defer z.Close()
		r, begin = z, z.Reset
	case filekind.Zip:
		member, err := imageInZip(in, size)
		if err != nil {
			return u, 0, err
		}
		offset, err := member.DataOffset()
		if err != nil {
			return u, 0, damaged(err)
		}
		in.n.Store(offset)
		needed = int64(member.UncompressedSize64)
		z, err := member.Open()
		if err != nil {
			return u, needed, damaged(err)
		}
		defer z.Close()
		r = z
	}
	w, err := sparse.NewWriter(dst)
	if err != nil {
		return u, needed, err
	}
	task := src.report.Begin(verb+src.base(), total)
	defer func() { task.End(err) }()
	in.add = task.Add
	if err := begin(in); err != nil {
		return u, needed, streamError(err, in)
	}
	hash := sha256.New()
	first, written := true, int64(0)
	err = relay(ctx, r, func(p []byte) error {
		if first {
			first = false
			if err := checkContent(p[:min(len(p), filekind.HeadSize)]); err != nil {
				return err
			}
		}
		hash.Write(p)
		written += int64(len(p))
		if want := src.image.size; want > 0 && written > want {
			return inputErrorf("the image in it has more than the %d bytes that are expected: look at where the numbers came from", want)
		}
		_, err := w.Write(p)
		return err
	})
	var read *readError
	switch {
	case ctx.Err() != nil:
		return u, needed, ctx.Err()
	case errors.As(err, &read):
		return u, needed, streamError(read.err, in)
	case err != nil:
		return u, needed, err
	case first:
		return u, needed, checkContent(nil)
	}
	u.digest = digestOf(hash)
	u.size, err = w.Finish()
	return u, needed, err
}

// streamError tells damage to the file from trouble with reading it.
func streamError(err error, in *counter) error {
	var system *fs.PathError
	switch {
	case errors.As(err, &system), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return inputErrorf("it takes more than %d MiB of memory to decompress; unpack it with zstd -d --long=31 and name the .img", maxZstdWindow>>20)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return damaged(fmt.Errorf("truncated at offset %d", in.n.Load()))
	}
	return damaged(fmt.Errorf("corrupt before offset %d: %w", in.n.Load(), err))
}

// A counter counts what is read of the source, by decoders of several
// goroutines too.
type counter struct {
	r   *io.SectionReader
	n   atomic.Int64
	add func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	if c.add != nil {
		c.add(int64(n))
	}
	return n, err
}

// ReadAt is for zip files, whose one member is read from its front.
func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	if c.add != nil {
		c.n.Add(int64(n))
		c.add(int64(n))
	}
	return n, err
}

// A readError is an error of the reading side of relay.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// relay reads r and hands its content to write piece by piece, reading ahead
// meanwhile: decompression and hashing take a processor each.
func relay(ctx context.Context, r io.Reader, write func([]byte) error) error {
	const pieces, pieceSize = 4, 1 << 20
	type piece struct {
		data []byte
		err  error
	}
	full, empty := make(chan piece, pieces), make(chan []byte, pieces)
	for range pieces {
		empty <- make([]byte, pieceSize)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(full)
		for {
			var buf []byte
			select {
			case buf = <-empty:
			case <-ctx.Done():
				return
			}
			// Not io.ReadFull: it calls a clean end in the midst of a
			// buffer what a truncated file is called.
			n, err := 0, error(nil)
			for n < len(buf) && err == nil && ctx.Err() == nil {
				var m int
				m, err = r.Read(buf[n:])
				n += m
			}
			full <- piece{buf[:n], err}
			if err != nil {
				return
			}
		}
	}()
	defer func() { cancel(); <-done }()
	for p := range full {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(p.data) > 0 {
			if err := write(p.data); err != nil {
				return err
			}
		}
		if errors.Is(p.err, io.EOF) {
			return nil
		}
		if p.err != nil {
			return &readError{p.err}
		}
		empty <- p.data[:pieceSize]
	}
	return ctx.Err()
}

// imageInZip finds the one image in a zip file.
func imageInZip(r io.ReaderAt, size int64) (*zip.File, error) {
	archive, err := zip.NewReader(r, size)
	if err != nil {
		return nil, damaged(fmt.Errorf("the zip file's directory cannot be read: %w", err))
	}
	archive.RegisterDecompressor(zip.Deflate, func(r io.Reader) io.ReadCloser { return flate.NewReader(r) })
	var images []*zip.File
	var names []string
	for _, m := range archive.File {
		if m.FileInfo().IsDir() {
			continue
		}
		names = append(names, m.Name)
		if strings.HasSuffix(strings.ToLower(m.Name), ".img") {
			images = append(images, m)
		}
	}
	switch len(images) {
	case 1:
		return images[0], nil
	case 0:
		return nil, inputErrorf("the zip file holds no .img: it has %s", list(names))
	}
	names = names[:0]
	for _, m := range images {
		names = append(names, m.Name)
	}
	return nil, inputErrorf("the zip file holds several images: %s; unpack the one that is wanted and name that", list(names))
}

// list shows some of the names.
func list(names []string) string {
	const most = 8
	if len(names) == 0 {
		return "nothing at all"
	}
	quoted := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	if len(names) > most {
		quoted = append(quoted, fmt.Sprintf("and %d more", len(names)-most))
	}
	return strings.Join(quoted, ", ")
}

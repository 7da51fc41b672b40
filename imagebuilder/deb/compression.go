package deb

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"

	"hatchery/internal/xz"
)

// maxWindow is what decompressing may take for its window, in bytes: what
// `zstd -d` allows, and twice what `xz -9` asks for. Debian's own packages ask
// for 8 MiB.
const maxWindow = 128 << 20

// A compression is a way in which a tar archive is packed. open begins to
// unpack r, and what it gives is closed in the end; it is nil where nothing is
// packed.
type compression struct {
	open func(r io.Reader) (io.ReadCloser, error)
	// dataOnly: dpkg takes it for data.tar, but not for control.tar.
	dataOnly bool
}

// compressions by the end of a member's name.
var compressions = map[string]compression{
	"": {},
	".gz": {open: func(r io.Reader) (io.ReadCloser, error) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z, nil
	}},
	".xz": {open: func(r io.Reader) (io.ReadCloser, error) {
		z, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(z), nil
	}},
	".zst": {open: func(r io.Reader) (io.ReadCloser, error) {
		// One goroutine: whoever reads has one to spare for it already.
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}},
	".bz2": {dataOnly: true, open: func(r io.Reader) (io.ReadCloser, error) {
		return io.NopCloser(bzip2.NewReader(r)), nil
	}},
	".lzma": {dataOnly: true, open: func(r io.Reader) (io.ReadCloser, error) {
		z, err := lzma.ReaderConfig{DictCap: maxWindow}.NewReader(bufio.NewReaderSize(r, 64<<10))
		if err != nil {
			return nil, err
		}
		return io.NopCloser(z), nil
	}},
}

// An unpacker reads what a member holds, decompressed.
type unpacker struct {
	member member
	source source
	z      io.ReadCloser // nil until something is read
	n      int64         // bytes given
	most   int64
	err    error
}

func newUnpacker(file io.ReaderAt, m member, most int64) *unpacker {
	return &unpacker{member: m, most: most, source: source{r: io.NewSectionReader(file, m.offset, m.size)}}
}

// Read gives errors that say what is wrong and where: a [*FormatError], or
// that the file cannot be read.
func (u *unpacker) Read(p []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	if u.z == nil {
		if err := u.begin(); err != nil {
			u.err = explain(u.member.name, 0, &u.source, err)
			return 0, u.err
		}
	}
	n, err := u.z.Read(p)
	if int64(n) > u.most-u.n {
		u.err = tooLarge(u.member.name, u.n, u.most)
		return 0, u.err
	}
	u.n += int64(n)
	if err != nil && (!errors.Is(err, io.EOF) || u.source.err.Load() != nil) {
		err = explain(u.member.name, u.n, &u.source, err)
	}
	u.err = err
	return n, err
}

func (u *unpacker) begin() error {
	open := u.member.compression.open
	switch {
	case open == nil:
		u.z = io.NopCloser(&u.source)
		return nil
	case u.member.size == 0:
		return io.EOF // which zstd would call whole
	}
	z, err := open(&u.source)
	if err == nil {
		u.z = z
	}
	return err
}

func (u *unpacker) Close() error {
	if u.z == nil {
		return nil
	}
	return u.z.Close()
}

func tooLarge(member string, at, most int64) error {
	return &FormatError{
		Member: member, Offset: at, Err: ErrTooLarge,
		Detail: fmt.Sprintf("it holds more than the %d bytes that it may", most),
	}
}

// explain tells damage to a member from trouble with reading it. At is how
// much of its content came.
func explain(member string, at int64, from *source, err error) error {
	if cause := from.err.Load(); cause != nil {
		return fmt.Errorf("cannot read %s of the package: %w", member, *cause)
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, xz.ErrTruncated):
		return &FormatError{Member: member, Offset: at, Detail: "its compressed data end too early", Err: io.ErrUnexpectedEOF}
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, xz.ErrMemory):
		return &FormatError{Member: member, Offset: at, Detail: fmt.Sprintf("it takes more memory to decompress than is allowed: %v", err), Err: ErrTooLarge}
	}
	return &FormatError{Member: member, Offset: at, Detail: fmt.Sprintf("its compressed data are damaged: %v", err), Err: err}
}

// A source remembers why it could not be read, which decoders may not tell.
type source struct {
	r   *io.SectionReader
	err atomic.Pointer[error]
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.remember(err)
	return n, err
}

// ReadAt is for several goroutines at once.
func (s *source) ReadAt(p []byte, at int64) (int, error) {
	n, err := s.r.ReadAt(p, at)
	s.remember(err)
	return n, err
}

func (s *source) remember(err error) {
	if err != nil && !errors.Is(err, io.EOF) {
		s.err.Store(&err)
	}
}

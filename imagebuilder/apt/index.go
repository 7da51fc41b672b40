package apt

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/xz"
)

// An Index is a list of packages, of one component for one architecture,
// verified and in the cache.
type Index struct {
	Name string // for people: "https://archive.example/debian bookworm/main armhf"
	From string // where its source stands: "/etc/apt/sources.list:3"
	URI  string // of the archive: the Filename of a package is relative to it

	Suite        string // as the source has it
	Component    string // "" where the suite is a folder
	Architecture string // armhf, all

	// What the Release file says.
	Origin, Label, ReleaseSuite, Codename, Version string
	Date                                           time.Time
	NotAutomatic, ButAutomaticUpgrades             bool

	// Priority is that of the versions in it, for apt_preferences(5): 500,
	// or 100 or 1 for a suite that is not automatic, or what a pin says.
	Priority int
	// Digest and Size are those of the file as the archive has it.
	Digest digest.Digest
	Size   int64

	place string
	plain listed // the list itself; the digest is "" where that is not known
}

// short names the index without its archive: "bookworm/main armhf".
func (i *Index) short() string {
	if i.Component == "" {
		return i.Suite + " " + i.Architecture
	}
	return i.Suite + "/" + i.Component + " " + i.Architecture
}

// URL gives where the archive has a file, by the path in an index's field
// Filename.
func (i *Index) URL(filename string) string {
	return i.URI + "/" + escape(strings.TrimLeft(strings.TrimPrefix(filename, "./"), "/"))
}

// maxPlain bounds a list whose Release file does not say how long it is.
const maxPlain = 1 << 30

// Open gives the list: paragraphs of packages. Its last Read fails where the
// file in the cache, or what comes out of it, is not what was listed.
func (i *Index) Open() (io.ReadCloser, error) {
	f, err := os.Open(i.place)
	if err != nil {
		return nil, fmt.Errorf("cannot read the index %s: %w", i.Name, err)
	}
	used(i.place)
	packed := newChecked(f, i.Digest, i.Size)
	inner, err := decompress(packed, filepath.Ext(i.place))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot read the index %s: %w", i.Name, err)
	}
	plain := newUnlisted(inner)
	if i.plain.digest != "" {
		plain = newChecked(inner, i.plain.digest, i.plain.size)
	}
	return &openIndex{name: i.Name, file: f, packed: packed, plain: plain, inner: inner}, nil
}

type openIndex struct {
	name          string
	file          *os.File
	packed, plain *checked
	inner         io.ReadCloser
	err           error
}

func (o *openIndex) Read(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.plain.Read(p)
	if errors.Is(err, io.EOF) {
		// What the unpacking left unread counts too.
		if _, cerr := io.Copy(io.Discard, o.packed); cerr != nil {
			err = cerr
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("cannot read the index %s: %w", o.name, err)
	}
	o.err = err
	return n, err
}

func (o *openIndex) Close() error {
	o.inner.Close()
	return o.file.Close()
}

// A checked reader fails at the end where what came is not what was to come.
type checked struct {
	r    io.Reader
	want digest.Digest // with its length: what is to come; v is nil where that is not known
	v    digest.Verifier
	size int64
	most int64
	n    int64 // that came
}

func newChecked(r io.Reader, want digest.Digest, size int64) *checked {
	return &checked{r: r, want: want, v: want.Verifier(), size: size, most: size}
}

// newUnlisted is for what no Release file lists.
func newUnlisted(r io.Reader) *checked { return &checked{r: r, most: maxPlain} }

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if int64(n) > c.most-c.n {
		return 0, fmt.Errorf("more than the %d bytes come out of it that it is to have", c.most)
	}
	c.n += int64(n)
	if c.v != nil {
		c.v.Write(p[:n])
	}
	if errors.Is(err, io.EOF) && c.v != nil && (c.n != c.size || !c.v.Verified()) {
		return n, fmt.Errorf("it is not what its Release file lists (%s, %d bytes): `hatchery cache verify --remove` removes what is broken", c.want, c.size)
	}
	return n, err
}

// The endings of an index, the best first.
var endings = []string{".xz", ".zst", ".gz", ""}

// plainEnding is that of an index in the cache that is not packed.
const plainEnding = ".packages"

// zstdMemory bounds the window of a zstd index: that of `zstd --ultra -22`.
const zstdMemory = 128 << 20

func decompress(r io.Reader, ending string) (io.ReadCloser, error) {
	switch ending {
	case ".xz":
		z, err := xz.NewReader(r)
		return io.NopCloser(z), err
	case ".gz":
		return gzip.NewReader(bufio.NewReaderSize(r, 64<<10))
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(zstdMemory))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

package deb

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"time"
)

const (
	// maxEntries and maxNames bound what has to be kept of a package's files,
	// here and by whoever unpacks it. Debian's largest has some hundred
	// thousand, with a few MiB of names.
	maxEntries = 1 << 19
	maxNames   = 64 << 20
)

// An Entry is one file of a package: a regular one, a folder, a link, a
// device, a named pipe.
type Entry struct {
	// Path is where it goes, clean and absolute: "/usr/bin/docker"; "/" for
	// the root.
	Path string
	// Mode has the permissions and the type. A hard link's are those in the
	// archive, which are not always its file's, and have no type.
	Mode fs.FileMode
	// HardLink: it is another name of the file Target, which came before it.
	HardLink    bool
	UID, GID    uint32
	User, Group string // for dpkg they count for more than the numbers, where the system knows them
	ModTime     time.Time
	Size        int64 // of a regular file
	// Target is where a symbolic link points, as it is; for a hard link, the
	// path of an entry that came before, clean and absolute, which is not a
	// folder.
	Target       string
	Major, Minor uint32            // of a device
	Xattrs       map[string][]byte // by their full names; nil where there are none
}

// Contents are the files of a package, in its order. It is for one goroutine;
// another decompresses ahead of it, until it is closed or the context ends.
type Contents struct {
	stream  stream
	t       *tarReader
	most    int64
	linkage map[string]bool // the paths that a hard link may name
	entries int
	names   int
	err     error
}

// Data begins to read the package's files; data.tar may have that many bytes
// at most when it is decompressed. The caller must close what it gets.
func (d *Deb) Data(ctx context.Context, most int64) (*Contents, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if path.Ext(d.data.name) == ".xz" {
		return d.contents(readBlocks(ctx, d.file, d.data, most, aheadSoft, aheadHard), most), nil
	}
	return d.contents(readAhead(ctx, newUnpacker(d.file, d.data, most)), most), nil
}

func (d *Deb) contents(in stream, most int64) *Contents {
	return &Contents{
		stream: in, most: most, linkage: map[string]bool{},
		t: &tarReader{in: in, tar: tar.NewReader(in), member: d.data.name, offset: in.given, failure: in.failure},
	}
}

// Next gives the next file; io.EOF after the last one, when all of data.tar
// has proved whole. Any other error is a [*FormatError], the context's, or one
// of reading the package, and is given again from then on.
func (c *Contents) Next() (*Entry, error) {
	if c.err != nil {
		return nil, c.err
	}
	e, err := c.next()
	if err != nil {
		c.err = err
		return nil, err
	}
	return e, nil
}

func (c *Contents) next() (*Entry, error) {
	h, err := c.t.next()
	if err != nil {
		return nil, err
	}
	if h.Size > c.most-c.t.offset() {
		return nil, tooLarge(c.t.member, c.t.at, c.most)
	}
	c.entries++
	c.names += len(h.Name) + len(h.Linkname)
	if c.entries > maxEntries || c.names > maxNames {
		return nil, c.t.wrong("more than %d files, or %d MiB of names: %w", maxEntries, maxNames>>20, ErrTooLarge)
	}
	e, err := entry(h)
	if err != nil {
		return nil, c.t.wrong("%w", err)
	}
	if e.HardLink && !c.linkage[e.Target] {
		return nil, c.t.wrong("%q is a hard link to %q, which is no file that comes before it", e.Path, e.Target)
	}
	// What comes twice is what it was last.
	if e.Mode.IsDir() {
		delete(c.linkage, e.Path)
	} else {
		c.linkage[e.Path] = true
	}
	return e, nil
}

// Read reads the regular file that Next gave last, up to io.EOF.
func (c *Contents) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.t.tar.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = c.t.explain(err)
		c.err = err
	}
	return n, err
}

// Close ends the decompression; its error is always nil. Nothing runs any more
// when it returns.
func (c *Contents) Close() error {
	c.stream.close()
	if c.err == nil {
		c.err = fs.ErrClosed
	}
	return nil
}

// entry makes an Entry of a tar header.
func entry(h *tar.Header) (*Entry, error) {
	name, err := cleanPath(h.Name)
	if err != nil {
		return nil, err
	}
	mode, err := fileMode(h)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	e := &Entry{Path: name, Mode: mode, User: h.Uname, Group: h.Gname, ModTime: h.ModTime}
	if name == "/" && !mode.IsDir() {
		return nil, errors.New("the root is not a folder")
	}
	for _, id := range []struct {
		what string
		from int64
		to   *uint32
	}{
		{"owner", int64(h.Uid), &e.UID}, {"group", int64(h.Gid), &e.GID},
		{"device number", h.Devmajor, &e.Major}, {"device number", h.Devminor, &e.Minor},
	} {
		if id.what == "device number" && mode&fs.ModeDevice == 0 {
			continue
		}
		if id.from < 0 || id.from > math.MaxUint32 {
			return nil, fmt.Errorf("%q has the %s %d, which there is not", name, id.what, id.from)
		}
		*id.to = uint32(id.from)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeLink:
		e.HardLink = true
		if e.Target, err = cleanPath(h.Linkname); err != nil {
			return nil, fmt.Errorf("%q is a hard link: %w", name, err)
		}
	case tar.TypeSymlink:
		e.Target = h.Linkname
		switch {
		case e.Target == "":
			return nil, fmt.Errorf("%q is a symbolic link to nothing", name)
		case len(e.Target) > maxPath || strings.Contains(e.Target, "\x00"):
			return nil, fmt.Errorf("%q is a symbolic link to what is no path", name)
		}
	}
	e.Xattrs, err = xattrs(h)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	return e, nil
}

package preload

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"hatchery/internal/atomicfile"
)

// Files visits the regular files that a container of the image sees: its
// layers laid over one another, with what upper ones remove or replace (OCI
// Image Layer Filesystem Changeset). A file of several names is visited once
// for each. The path is absolute; the content can be read while visit runs,
// and takes bounded memory: what is not read is not unpacked into it, and what
// is large goes through a temporary file.
//
// The order is that of the layers, from the lowest up, and in each that of its
// tar: the same for equal images.
func (i *Image) Files(ctx context.Context, visit func(path string, size int64, r io.ReaderAt) error) error {
	if err := i.files(ctx, visit); err != nil {
		return fmt.Errorf("cannot read the files of %s: %w", i.Ref, err)
	}
	return nil
}

func (i *Image) files(ctx context.Context, visit func(path string, size int64, r io.ReaderAt) error) error {
	var layers []stacked
	for _, l := range i.layers {
		layers = append(layers, stacked{l.what.name, func() (io.ReadCloser, error) { return i.cache.open(l.Stored) }})
	}
	return visitFiles(ctx, layers, i.cache.dir, visit)
}

// A stacked layer is one of those that lie over one another.
type stacked struct {
	name string                        // for people: "layer 1 of 2"
	open func() (io.ReadCloser, error) // its tar, packed or not
}

// visitFiles is [Image.Files] of layers, from the lowest up; dir is where
// temporary files go.
func visitFiles(ctx context.Context, layers []stacked, dir string, visit func(path string, size int64, r io.ReaderAt) error) error {
	tree := &tree{root: newFolder(0)}
	for n, l := range layers {
		tree.layer = int32(n)
		err := l.read(ctx, tree.apply)
		if err != nil {
			return fmt.Errorf("its %s: %w", l.name, err)
		}
	}
	visible := tree.contents(len(layers))
	for n, l := range layers {
		names := visible[n]
		if len(names) == 0 {
			continue
		}
		err := l.read(ctx, func(ordinal int32, h *tar.Header, r io.Reader) error {
			paths := names[ordinal]
			if len(paths) == 0 {
				return nil
			}
			slices.Sort(paths)
			s := &spool{r: r, size: h.Size, dir: dir}
			defer s.Close()
			for _, p := range paths {
				if err := visit(p, h.Size, s); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("its %s: %w", l.name, err)
		}
	}
	return nil
}

// read gives the entries of a layer's tar, numbered.
func (l *stacked) read(ctx context.Context, entry entryFunc) error {
	text, err := l.text(ctx)
	if err != nil {
		return err
	}
	defer text.Close()
	return eachEntry(text, entry)
}

// text is the layer's tar, unpacked.
func (l *stacked) text(ctx context.Context) (io.ReadCloser, error) {
	f, err := l.open()
	if err != nil {
		return nil, err
	}
	text, _, err := decompress(&cancelReader{ctx, f})
	if err != nil {
		f.Close()
		return nil, err
	}
	return &layerText{text, f}, nil
}

// A layerText closes what it is read from, too.
type layerText struct {
	io.ReadCloser
	file io.Closer
}

func (t *layerText) Close() error { return errors.Join(t.ReadCloser.Close(), t.file.Close()) }

// An entryFunc is given an entry of a tar, its number, and its content.
type entryFunc func(ordinal int32, h *tar.Header, r io.Reader) error

func eachEntry(r io.Reader, entry entryFunc) error {
	t := tar.NewReader(r)
	for ordinal := int32(0); ; ordinal++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return tarError(err)
		}
		if err := entry(ordinal, h, t); err != nil {
			return err
		}
	}
}

// A tree is what a container sees. Of files it knows only where their content
// is: in which layer, and which entry of its tar.
type tree struct {
	root  *node
	layer int32 // which is being laid on top
	nodes int   // that were ever made
	names int   // bytes of their names
}

type node struct {
	children map[string]*node // of a folder, else nil
	layer    int32            // that brought it last
	content  *content         // of a regular file
}

type content struct{ layer, ordinal int32 }

func newFolder(layer int32) *node { return &node{children: map[string]*node{}, layer: layer} }

// Names of a layer's tar that remove something from the layers below.
const (
	whiteout = ".wh."
	aufs     = ".wh..wh." // what AUFS kept for itself
	opaque   = ".wh..wh..opq"
)

// apply lays one entry of the upper layer's tar over what is there.
func (t *tree) apply(ordinal int32, h *tar.Header, _ io.Reader) error {
	name, err := entryPath(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	if t.names += len(name); t.names > maxNames {
		return inputErrorf("the names of its files have more than %d bytes", int64(maxNames))
	}
	parent, err := t.folder(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch {
	case base == opaque:
		t.clear(parent)
		return nil
	case strings.HasPrefix(base, aufs):
		return nil
	case strings.HasPrefix(base, whiteout):
		gone := strings.TrimPrefix(base, whiteout)
		if n := parent.children[gone]; n != nil && !t.clear(n) {
			delete(parent.children, gone)
		}
		return nil
	}
	if err := t.more(); err != nil {
		return err
	}
	n := &node{layer: t.layer}
	switch h.Typeflag {
	case tar.TypeDir:
		if is := parent.children[base]; is != nil && is.children != nil {
			is.layer = t.layer
			return nil
		}
		n.children = map[string]*node{}
	case tar.TypeReg, tar.TypeGNUSparse:
		n.content = &content{t.layer, ordinal}
	case tar.TypeLink:
		target, err := entryPath(h.Linkname)
		if err != nil {
			return err
		}
		to := t.find(target)
		if to == nil || to.children != nil {
			return inputErrorf("%q in it is a link to %q, which is not there", oneLine(h.Name), oneLine(h.Linkname))
		}
		n.content = to.content
	}
	parent.children[base] = n
	return nil
}

// folder gives a folder, and makes what is missing of it.
func (t *tree) folder(name string) (*node, error) {
	at := t.root
	if name == "." {
		return at, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		next := at.children[part]
		if next == nil || next.children == nil {
			if err := t.more(); err != nil {
				return nil, err
			}
			next = newFolder(t.layer)
			at.children[part] = next
		}
		at = next
	}
	return at, nil
}

// more counts what takes memory. A name of many parts takes much of it.
func (t *tree) more() error {
	if t.nodes++; t.nodes > maxFiles {
		return inputErrorf("it has more than %d files", int64(maxFiles))
	}
	return nil
}

func (t *tree) find(name string) *node {
	at := t.root
	for part := range strings.SplitSeq(name, "/") {
		if at = at.children[part]; at == nil {
			return nil
		}
	}
	return at
}

// clear removes from n what lower layers brought, and says whether something
// of the upper one is left, or is n itself.
func (t *tree) clear(n *node) bool {
	for name, child := range n.children {
		if !t.clear(child) {
			delete(n.children, name)
		}
	}
	return len(n.children) > 0 || n.layer == t.layer
}

// contents lists, for each layer, the names under which its entries are seen.
func (t *tree) contents(layers int) []map[int32][]string {
	all := make([]map[int32][]string, layers)
	var walk func(at string, n *node)
	walk = func(at string, n *node) {
		if c := n.content; c != nil {
			if all[c.layer] == nil {
				all[c.layer] = map[int32][]string{}
			}
			all[c.layer][c.ordinal] = append(all[c.layer][c.ordinal], at)
		}
		for name, child := range n.children {
			walk(at+"/"+name, child)
		}
	}
	walk("", t.root)
	return all
}

// A spool makes a file of a tar readable at any place. It takes from the tar
// only as much as is asked for: the first bytes tell most files apart.
type spool struct {
	r    io.Reader
	size int64
	dir  string

	head []byte // the beginning of the file
	file *os.File
	have int64 // of the file's bytes, in head and file
}

// spoolHead is how much of a file is kept in memory.
const spoolHead = 1 << 20

// ReadAt implements [io.ReaderAt].
func (s *spool) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 {
		return 0, errors.New("a place before the beginning of the file")
	}
	if at >= s.size {
		return 0, io.EOF
	}
	short := false
	if rest := s.size - at; int64(len(p)) > rest {
		p, short = p[:rest], true
	}
	if err := s.fill(at + int64(len(p))); err != nil {
		return 0, err
	}
	n := 0
	if at < int64(len(s.head)) {
		n = copy(p, s.head[at:])
	}
	if n < len(p) {
		m, err := s.file.ReadAt(p[n:], at+int64(n)-int64(len(s.head)))
		if n += m; n < len(p) {
			return n, err
		}
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// fill takes from the tar until the file's first bytes are here.
func (s *spool) fill(until int64) error {
	if s.have < until && s.have < spoolHead {
		want := min(max(until, 4096), s.size, spoolHead)
		grown := slices.Grow(s.head, int(want-s.have))[:want]
		n, err := io.ReadFull(s.r, grown[s.have:])
		s.have += int64(n)
		s.head = grown[:s.have]
		if err != nil {
			return tarError(err)
		}
	}
	if s.have >= until {
		return nil
	}
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, ".file.*"+atomicfile.Suffix)
		if err != nil {
			return err
		}
		s.file = f
	}
	n, err := io.CopyN(s.file, s.r, until-s.have)
	s.have += n
	if err != nil {
		return tarError(err)
	}
	return nil
}

// Close removes what lies on the disk.
func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	s.file.Close()
	return os.Remove(s.file.Name())
}

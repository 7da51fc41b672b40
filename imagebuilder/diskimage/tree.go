package diskimage

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	// maxLinks is how many symbolic links one path may lead through, as on
	// Linux.
	maxLinks = 40
	// maxPath bounds a path with its links resolved, as on Linux.
	maxPath = 4096
)

// tree is one file system, or several put together.
type tree struct {
	root   mounted
	mounts map[string]mounted // by where they are laid over, absolute, links resolved
	real   map[string]string  // of folders: where they lie, links resolved
}

// A mounted volume is one at its place.
type mounted struct {
	volume
	partition int
	at        string // "/" for the root
}

func newTree(v volume, partition int) *tree {
	return &tree{root: mounted{v, partition, "/"}, mounts: map[string]mounted{}, real: map[string]string{}}
}

// lay mounts a volume on a folder that exists, and says where that lies.
func (t *tree) lay(v volume, partition int, at string) (Mount, bool) {
	n, err := Stat(t, at)
	if err != nil || !n.IsDir() || n.Path == "/" {
		return Mount{}, false
	}
	t.mounts[n.Path] = mounted{v, partition, n.Path}
	clear(t.real)
	return Mount{n.Path, partition}, true
}

// mountOf says in which volume a path without links lies.
func (t *tree) mountOf(p string) mounted {
	for at := p; at != "/" && len(t.mounts) > 0; at = parent(at) {
		if m, ok := t.mounts[at]; ok {
			return m
		}
	}
	return t.root
}

// inside gives a path as its volume knows it.
func (m mounted) inside(p string) string {
	if m.at == "/" {
		return p
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(p, m.at), "/")
}

// outside makes a node of a volume one of the tree.
func (m mounted) outside(n Node) Node {
	n.Path = path.Join(m.at, n.Path)
	n.Partition = m.partition
	return n
}

// node describes what lies at a path without links.
func (t *tree) node(p string) (Node, error) {
	m := t.mountOf(p)
	n, err := m.lstat(m.inside(p))
	if err != nil {
		return Node{}, err
	}
	return m.outside(n), nil
}

func parent(p string) string { return path.Dir(p) }

// resolve finds the node that a path leads to; of a link at its end, the link
// unless follow.
func (t *tree) resolve(name string, follow bool) (Node, error) {
	if strings.ContainsRune(name, 0) {
		return Node{}, fs.ErrInvalid
	}
	// The folder of most paths was resolved just before.
	trimmed := strings.TrimRight(name, "/")
	if i := strings.LastIndexByte(trimmed, '/'); i > 0 {
		if real, ok := t.real[trimmed[:i]]; ok {
			if last := trimmed[i+1:]; last != "." && last != ".." {
				n, err := t.node(path.Join(real, last))
				if err != nil || n.Mode&fs.ModeSymlink == 0 || !follow && trimmed == name {
					return n, err
				}
			}
		}
	}
	rest := components(name)
	// "link/" means the folder that it leads to.
	follow = follow || strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")
	at, err := t.node("/")
	if err != nil {
		return Node{}, err
	}
	last := true // the end of rest is the end of the name
	for links := 0; len(rest) > 0; {
		if last && len(rest) == 1 {
			t.remember(trimmed, at.Path)
		}
		part := rest[0]
		rest = rest[1:]
		if !at.IsDir() {
			return Node{}, ErrNotDir
		}
		next := path.Join(at.Path, part)
		if part == ".." {
			next = parent(at.Path)
		}
		if len(next) > maxPath {
			return Node{}, fs.ErrInvalid
		}
		n, err := t.node(next)
		if err != nil {
			return Node{}, err
		}
		if n.Mode&fs.ModeSymlink == 0 || len(rest) == 0 && !follow {
			at = n
			continue
		}
		if links++; links > maxLinks {
			return Node{}, ErrLoop
		}
		if n.Target == "" {
			return Node{}, fs.ErrNotExist
		}
		if n.Target[0] == '/' {
			if at, err = t.node("/"); err != nil {
				return Node{}, err
			}
		}
		last = last && len(rest) > 0
		rest = append(components(n.Target), rest...)
		if len(rest) > maxPath {
			return Node{}, ErrLoop
		}
	}
	return at, nil
}

// remember keeps where the folder of a name lies.
func (t *tree) remember(name, folder string) {
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		if len(t.real) > 4096 {
			clear(t.real)
		}
		t.real[name[:i]] = folder
	}
}

// components splits a path and leaves out what stays in place.
func components(p string) []string {
	var list []string
	for c := range strings.SplitSeq(p, "/") {
		if c != "" && c != "." {
			list = append(list, c)
		}
	}
	return list
}

func pathError(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

func (t *tree) Lstat(p string) (Node, error) {
	n, err := t.resolve(p, false)
	return n, pathError("lstat", p, err)
}

func (t *tree) ReadDir(p string) ([]Node, error) {
	n, err := t.resolve(p, true)
	if err == nil && !n.IsDir() {
		err = ErrNotDir
	}
	if err != nil {
		return nil, pathError("readdir", p, err)
	}
	list, err := t.list(n.Path)
	return list, pathError("readdir", p, err)
}

// list gives what is in a folder whose path has no links.
func (t *tree) list(dir string) ([]Node, error) {
	m := t.mountOf(dir)
	nodes, err := m.readDir(m.inside(dir))
	if err != nil {
		return nil, err
	}
	for i, n := range nodes {
		nodes[i] = m.outside(n)
		if over, ok := t.mounts[nodes[i].Path]; ok {
			if n, err := over.lstat("/"); err == nil {
				nodes[i] = over.outside(n)
			}
		}
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(path.Base(a.Path), path.Base(b.Path)) })
	return nodes, nil
}

func (t *tree) Open(p string) (io.ReadCloser, error) {
	n, err := t.resolve(p, true)
	switch {
	case err != nil:
	case n.IsDir():
		err = ErrIsDir
	case !n.Mode.IsRegular():
		err = ErrNotRegular
	}
	if err != nil {
		return nil, pathError("open", p, err)
	}
	m := t.mountOf(n.Path)
	f, err := m.open(m.inside(n.Path))
	if err != nil {
		return nil, pathError("open", p, err)
	}
	return f, nil
}

func (t *tree) Walk(root string, visit func(Node) error) error {
	n, err := t.resolve(root, false)
	if err != nil {
		return pathError("walk", root, err)
	}
	w := walker{t, visit, map[folder]bool{}}
	if err := w.walk(n); !errors.Is(err, fs.SkipAll) && !errors.Is(err, fs.SkipDir) {
		return err
	}
	return nil
}

// A walker sees every folder once: folders that hold each other, or one that
// two hold, are damage, and would have no end.
type walker struct {
	*tree
	visit func(Node) error
	seen  map[folder]bool
}

type folder struct {
	partition int
	inode     uint64
}

func (w *walker) walk(n Node) error {
	var list []Node
	if n.IsDir() && n.Problem == "" {
		id := folder{n.Partition, n.Inode}
		var err error
		switch {
		case w.seen[id]:
			err = errors.New("the folder is held by two others, which is damage")
		case len(n.Path) > maxPath:
			err = errors.New("its path is longer than Linux can reach")
		default:
			w.seen[id] = true
			list, err = w.list(n.Path)
		}
		if err != nil {
			n.Problem = cause(err)
		}
	}
	if err := w.visit(n); err != nil {
		if n.IsDir() && errors.Is(err, fs.SkipDir) {
			return nil
		}
		return err
	}
	for _, child := range list {
		if err := w.walk(child); errors.Is(err, fs.SkipDir) {
			return nil // said of a file: the rest of its folder is left out
		} else if err != nil {
			return err
		}
	}
	return nil
}

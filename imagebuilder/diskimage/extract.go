package diskimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"hatchery/internal/sparse"
)

// ExtractOptions say how files are copied out of an image.
type ExtractOptions struct {
	// Replace what is in the way.
	Replace bool
	// Owners keeps owners, and with them setuid and setgid, which mean nothing
	// without. It takes root.
	Owners bool
	// MostBytes bounds the data that is written, holes aside: an image can
	// claim one block for many files. 0 is no bound.
	MostBytes int64
}

// Extracted says what was copied out of an image.
type Extracted struct {
	Path    string // where it went
	Files   int    // regular files
	Folders int
	Links   int      // symbolic ones, and further names of a file
	Bytes   int64    // of the files' data, holes aside
	Skipped []string // what was left out, and why
}

// ErrInTheWay says that something is already where a file was to go.
var ErrInTheWay = errors.New("is already there")

// Extract copies a file, or a folder with all in it, out of a tree: to dest,
// or into dest where that is a folder or ends in a slash. The tree's own root
// has no name; what is in it goes into dest.
//
// It happens beside its destination, out of others' sight, and is put in its
// place when it is whole. Modes and times are kept, symbolic links stay what
// they are, hard-linked files stay linked, and holes stay holes. Device nodes,
// pipes and sockets are left out, and extended attributes are not kept. What a
// link at the end of from leads to is copied.
//
// Nothing is written outside dest, whatever names and links the image holds.
// The error matches ErrInTheWay where something would be overwritten.
func Extract(ctx context.Context, t Tree, from, dest string, o ExtractOptions) (*Extracted, error) {
	n, err := Stat(t, from)
	if err != nil {
		return nil, err
	}
	x := &extraction{ctx: ctx, tree: t, options: o, linked: map[folder]string{}, out: &Extracted{}}
	parent, names, err := x.plan(n, from, dest)
	if err != nil {
		return nil, err
	}
	stage, err := os.MkdirTemp(parent, ".hatchery-extract-*")
	if err != nil {
		return nil, err
	}
	defer discard(stage)
	if x.root, err = os.OpenRoot(stage); err != nil {
		return nil, err
	}
	defer x.root.Close()
	for _, it := range names {
		if err := x.copy(it.node, it.name); err != nil {
			return nil, err
		}
	}
	for _, it := range names {
		if err := x.place(stage, parent, it.name); err != nil {
			return nil, err
		}
	}
	return x.out, x.finish(parent)
}

type extraction struct {
	ctx     context.Context
	tree    Tree
	options ExtractOptions
	root    *os.Root
	linked  map[folder]string // files with several names: the first of them
	folders []made
	buffer  []byte
	out     *Extracted
}

// made is a folder that gets its mode and time when all is in it.
type made struct {
	name string
	node Node
}

// item is one thing that is put in its place.
type item struct {
	node Node
	name string // on the host
}

// plan says what goes where, and refuses what is in the way.
func (x *extraction) plan(n Node, from, dest string) (parent string, items []item, err error) {
	into := strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, string(filepath.Separator))
	if dest, err = filepath.Abs(dest); err != nil {
		return "", nil, err
	}
	info, err := os.Stat(dest)
	switch {
	case err == nil:
		into = info.IsDir()
	case errors.Is(err, fs.ErrNotExist):
	default:
		return "", nil, err
	}
	if name := path.Base(path.Clean("/" + from)); n.IsDir() && (name == "/" || n.Path == "/") {
		if err == nil && !into {
			return "", nil, fmt.Errorf("%s %w, and is no folder", dest, ErrInTheWay)
		}
		nodes, err := x.tree.ReadDir(n.Path)
		if err != nil {
			return "", nil, err
		}
		for _, child := range nodes {
			items = append(items, item{child, path.Base(child.Path)})
		}
		if err := os.MkdirAll(dest, 0o755); err != nil {
			return "", nil, err
		}
		parent, x.out.Path = dest, dest
	} else {
		if into {
			parent = dest
			if err := os.MkdirAll(dest, 0o755); err != nil {
				return "", nil, err
			}
			if name == ".." || name == "." {
				name = path.Base(n.Path)
			}
		} else {
			parent, name = filepath.Dir(dest), filepath.Base(dest)
		}
		items = []item{{n, name}}
		x.out.Path = filepath.Join(parent, name)
	}
	for _, it := range items {
		if why := hostName(it.name); why != "" {
			return "", nil, fmt.Errorf("%q cannot be a file's name here: %s", it.name, why)
		}
		at := filepath.Join(parent, it.name)
		if _, err := os.Lstat(at); err == nil && !x.options.Replace {
			return "", nil, fmt.Errorf("%s %w", at, ErrInTheWay)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
	}
	return parent, items, nil
}

// hostName says why a name cannot be used on this system; "" where it can.
func hostName(name string) string {
	switch {
	case !possible(name):
		return "it is no name but a path"
	case strings.ContainsRune(name, filepath.Separator) || !filepath.IsLocal(name):
		return "the system takes it for something else"
	}
	return ""
}

func (x *extraction) skip(n Node, why string) {
	const most = 1000
	if len(x.out.Skipped) < most {
		x.out.Skipped = append(x.out.Skipped, n.Path+": "+why)
	} else if len(x.out.Skipped) == most {
		x.out.Skipped = append(x.out.Skipped, "and more")
	}
}

// copy makes a node, and all below it, in the stage.
func (x *extraction) copy(n Node, name string) error {
	// The names on the host by the paths in the image.
	host := map[string]string{n.Path: name}
	return x.tree.Walk(n.Path, func(child Node) error {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		at, ok := host[child.Path]
		if !ok {
			base := path.Base(child.Path)
			if why := hostName(base); why != "" {
				x.skip(child, why)
				return skipIf(child.IsDir())
			}
			at = filepath.Join(host[parent(child.Path)], base)
		}
		if child.Problem != "" {
			x.skip(child, child.Problem)
			return skipIf(child.IsDir())
		}
		err := x.make(child, at)
		if child.IsDir() && err == nil {
			host[child.Path] = at
		}
		if errors.Is(err, fs.ErrExist) {
			x.skip(child, "another file has this name here, where capitals may not count")
			return skipIf(child.IsDir())
		}
		return err
	})
}

func skipIf(dir bool) error {
	if dir {
		return fs.SkipDir
	}
	return nil
}

// make makes one file in the stage.
func (x *extraction) make(n Node, at string) error {
	switch {
	case n.IsDir():
		if err := x.root.Mkdir(at, 0o700); err != nil {
			return err
		}
		x.folders = append(x.folders, made{at, n})
		x.out.Folders++
		return nil
	case n.Mode&fs.ModeSymlink != 0:
		if err := x.root.Symlink(n.Target, at); err != nil {
			if runtime.GOOS == "windows" && !errors.Is(err, fs.ErrExist) {
				x.skip(n, "no symbolic links can be made here")
				return nil
			}
			return err
		}
		x.out.Links++
		if x.options.Owners {
			return x.root.Lchown(at, int(n.UID), int(n.GID))
		}
		return nil
	case n.Mode.IsRegular():
		return x.file(n, at)
	}
	x.skip(n, "it is a "+typeName(n.Mode))
	return nil
}

// typeName says what a special file is.
func typeName(m fs.FileMode) string {
	switch {
	case m&fs.ModeCharDevice != 0:
		return "character device"
	case m&fs.ModeDevice != 0:
		return "block device"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "special file"
}

func (x *extraction) file(n Node, at string) error {
	id := folder{n.Partition, n.Inode}
	if n.Links > 1 {
		if first, ok := x.linked[id]; ok {
			if err := x.root.Link(first, at); err == nil || errors.Is(err, fs.ErrExist) {
				x.out.Links++
				return err
			} // where the system has no links, it is copied
		} else {
			x.linked[id] = at
		}
	}
	src, err := x.tree.Open(n.Path)
	if err != nil {
		x.skip(n, cause(err))
		return nil
	}
	defer src.Close()
	dst, err := x.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = x.fill(dst, src)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	x.out.Files++
	return x.attributes(x.root, at, n)
}

// fill writes a file's content. What cannot be read is an error: a file that
// is cut short must not pass for whole.
func (x *extraction) fill(dst *os.File, src io.Reader) error {
	w, err := sparse.NewWriter(dst)
	if err != nil {
		return err
	}
	if x.buffer == nil {
		x.buffer = make([]byte, 1<<20)
	}
	for buf := x.buffer; ; {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(src, buf)
		if n > 0 {
			if !sparse.IsZero(buf[:n]) {
				if x.out.Bytes += int64(n); x.options.MostBytes > 0 && x.out.Bytes > x.options.MostBytes {
					return fmt.Errorf("the image claims more than %d bytes of data, which it cannot have: it is damaged", x.options.MostBytes)
				}
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			_, err := w.Finish()
			return err
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", dst.Name(), err)
		}
	}
}

// attributes gives a file or folder its owner, mode and time.
func (x *extraction) attributes(root *os.Root, at string, n Node) error {
	mode := n.Mode.Perm()
	if x.options.Owners {
		if err := root.Lchown(at, int(n.UID), int(n.GID)); err != nil {
			return err
		}
		mode |= n.Mode & (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	}
	if err := root.Chmod(at, mode); err != nil {
		return err
	}
	return root.Chtimes(at, time.Time{}, n.ModTime)
}

// place moves one thing from the stage to where it belongs, and what is in the
// way out of it, for as long as that may fail.
func (x *extraction) place(stage, parent, name string) error {
	from, to := filepath.Join(stage, name), filepath.Join(parent, name)
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return nil // it was skipped
	}
	if _, err := os.Lstat(to); err == nil {
		if !x.options.Replace {
			return fmt.Errorf("%s %w", to, ErrInTheWay)
		}
		aside, err := os.MkdirTemp(parent, ".hatchery-replaced-*")
		if err != nil {
			return err
		}
		defer discard(aside)
		old := filepath.Join(aside, "old")
		if err := os.Rename(to, old); err != nil {
			return err
		}
		if err := os.Rename(from, to); err != nil {
			return errors.Join(fmt.Errorf("cannot put it in its place: %w", err), os.Rename(old, to))
		}
		return nil
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("cannot put it in its place: %w", err)
	}
	return nil
}

// finish gives the folders their modes and times, the deepest first. Before,
// one that may not be written to could not be filled or moved.
func (x *extraction) finish(parent string) error {
	if len(x.folders) == 0 {
		return nil
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	for i := len(x.folders) - 1; i >= 0; i-- {
		if err := x.attributes(root, x.folders[i].name, x.folders[i].node); err != nil {
			return err
		}
	}
	return nil
}

// discard removes a folder, and what in it may not be written to.
func discard(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	os.RemoveAll(dir)
}

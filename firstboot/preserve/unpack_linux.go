package preserve

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hatchery/internal/kept"
)

// ErrBadArchive says that something is no archive of this package's: it was damaged,
// or somebody made it to do harm.
var ErrBadArchive = errors.New("this is no archive of what was kept")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrBadArchive, fmt.Errorf(format, args...))
}

// An unpacker unpacks an archive into an empty folder: root N into what is called N
// there.
//
// Entries come as packer has them, a folder before what is in it and all of that
// before anything else. So there is a stack of open folders, and an entry is made by its last name
// in the folder on top: no path is ever walked but those of hard links, component by
// component.
type unpacker struct {
	ctx   context.Context
	base  int // the open folder
	roots map[string]int
	skip  map[string]bool // entries of roots that are passed over
	stack []folder
	seen  map[int]bool
	buf   []byte
	// read and written are bytes of the archive and of files: tar has formats of its
	// own for files with holes, by which few bytes become as many as somebody likes.
	read, written int64
	// room says that there is none left. It is asked every now and then: an entry of a
	// few bytes takes a block, or a folder's, and there may be millions.
	room func() error
	left int // entries, or pieces of files, until it is asked the next time
}

// asked is how many entries, or pieces of files, come between questions for room.
const asked = 128

// goOn says whether there is room for more.
func (u *unpacker) goOn() error {
	if u.left--; u.left >= 0 || u.room == nil {
		return nil
	}
	u.left = asked
	return u.room()
}

// A folder is one that is being filled: what it is to be like comes last, because
// whatever is made in it changes its time.
type folder struct {
	path string // its entry
	fd   int
	h    *tar.Header
}

// unpack unpacks what r gives. place says under which number a root is unpacked;
// those of skipped are passed over. It ends when room, where that is given, says that
// there is none.
func unpack(ctx context.Context, r io.Reader, dir string, place map[kept.Root]int, skipped []kept.Root, room func() error) (err error) {
	base, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", dir, err)
	}
	defer unix.Close(base)
	u := &unpacker{ctx: ctx, base: base, roots: make(map[string]int), skip: make(map[string]bool), seen: make(map[int]bool), room: room, left: asked}
	for root, n := range place {
		u.roots[root.Entry()] = n
	}
	for _, root := range skipped {
		u.skip[root.Entry()] = true
	}
	defer func() {
		for _, f := range u.stack {
			unix.Close(f.fd)
		}
	}()
	counted := readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		u.read += int64(n)
		return n, err
	})
	for t := tar.NewReader(counted); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return broken(ctx, err)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
	for len(u.stack) > 0 {
		if err := u.leave(); err != nil {
			return err
		}
	}
	for entry, n := range u.roots {
		if !u.seen[n] {
			return bad("%.200q is not in it", entry)
		}
	}
	return nil
}

// broken tells what arrived and is no tar from what did not arrive.
func broken(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrBadArchive):
		return err
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return bad("%v", err)
	}
	return fmt.Errorf("%w: the archive did not arrive whole: %w", ErrCall, err)
}

// split finds the root of an entry. rest is the entry below it, "" for itself.
func (u *unpacker) split(name string) (root int, known, skipped bool) {
	for at := name; at != "." && at != "/"; at = path.Dir(at) {
		if n, ok := u.roots[at]; ok {
			return n, true, false
		}
		if u.skip[at] {
			return 0, false, true
		}
	}
	return 0, false, false
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	if name == "" || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsRune(name, 0) {
		return bad("%.200q is no entry's name", h.Name)
	}
	n, known, skipped := u.split(name)
	if skipped {
		return nil
	}
	if !known {
		return bad("%.200q was not announced", name)
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return bad("%.200q has no owner that there can be", name)
	}
	// Folders that are complete.
	_, isRoot := u.roots[name]
	parent := path.Dir(name)
	for len(u.stack) > 0 && (isRoot || u.stack[len(u.stack)-1].path != parent) {
		if err := u.leave(); err != nil {
			return err
		}
	}
	in, as := u.base, strconv.Itoa(n)
	switch {
	case isRoot && u.seen[n]:
		return bad("%.200q is there twice", name)
	case isRoot:
		u.seen[n] = true
	case len(u.stack) == 0:
		return bad("%.200q does not come after its folder", name)
	default:
		in, as = u.stack[len(u.stack)-1].fd, path.Base(name)
	}
	if err := u.goOn(); err != nil {
		return err
	}
	if err := u.make(in, as, name, h, content); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return bad("%.200q is there twice", name)
		}
		return fmt.Errorf("cannot unpack %.200s: %w", name, err)
	}
	return nil
}

// make makes one entry, which must not be there yet: nothing is followed or
// replaced.
func (u *unpacker) make(in int, as, name string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if len(u.stack) == mostDepth+1 {
			return bad("folders lie more than %d deep in each other", mostDepth)
		}
		if err := unix.Mkdirat(in, as, 0o700); err != nil {
			return err
		}
		fd, err := unix.Openat(in, as, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		u.stack = append(u.stack, folder{name, fd, h})
		return nil
	case tar.TypeReg:
		fd, err := unix.Openat(in, as, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		err = u.fill(f, h, content)
		if err == nil {
			err = dress(fd, h)
		}
		return errors.Join(err, f.Close())
	case tar.TypeLink:
		return u.link(in, as, h.Linkname)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= unix.PathMax {
			return bad("it leads to %.100q", h.Linkname)
		}
		if err := unix.Symlinkat(h.Linkname, in, as); err != nil {
			return err
		}
		return dressAt(in, as, h, false)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
		if h.Devmajor < 0 || h.Devmajor > 1<<12-1 || h.Devminor < 0 || h.Devminor > 1<<20-1 {
			return bad("there is no device %d, %d", h.Devmajor, h.Devminor)
		}
		if err := unix.Mknodat(in, as, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return err
		}
		return dressAt(in, as, h, true)
	}
	return bad("type %q is none of what was kept", h.Typeflag)
}

// leave ends the folder on top: it gets what it is to be like.
func (u *unpacker) leave() error {
	f := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	err := dress(f.fd, f.h)
	unix.Close(f.fd)
	if err != nil {
		return fmt.Errorf("cannot unpack %.200s: %w", f.path, err)
	}
	return nil
}

// fill writes a file's content.
func (u *unpacker) fill(f *os.File, h *tar.Header, content io.Reader) error {
	if u.buf == nil {
		u.buf = make([]byte, 256<<10)
	}
	size, data := h.Size, []kept.Extent{{Offset: 0, Length: h.Size}}
	record, sparse := h.PAXRecords[kept.SparseRecord]
	if sparse {
		var err error
		if size, data, err = kept.ParseSparse(record, h.Size); err != nil {
			return bad("%v", err)
		}
	}
	for _, e := range data {
		for e.Length > 0 {
			if u.ctx.Err() != nil {
				return context.Cause(u.ctx)
			}
			part := u.buf[:min(int64(len(u.buf)), e.Length)]
			if _, err := io.ReadFull(content, part); err != nil {
				return broken(u.ctx, err)
			}
			if u.written += int64(len(part)); u.written > u.read {
				return bad("it has holes of another kind than are kept")
			}
			if err := u.goOn(); err != nil {
				return err
			}
			if _, err := f.WriteAt(part, e.Offset); err != nil {
				return err
			}
			e.Offset, e.Length = e.Offset+int64(len(part)), e.Length-int64(len(part))
		}
	}
	if sparse {
		return f.Truncate(size)
	}
	return nil
}

// link makes a hard link to what came before. Its path leads over folders only.
func (u *unpacker) link(in int, as, target string) error {
	n, known, _ := u.split(target)
	if !known || path.Clean(target) != target {
		return bad("it is a link to %.200q, which is not in the archive", target)
	}
	dir, name := u.base, strconv.Itoa(n)
	if _, isRoot := u.roots[target]; !isRoot {
		root := target
		for u.isBelow(root) {
			root = path.Dir(root)
		}
		names := append([]string{name}, strings.Split(strings.TrimPrefix(target, root+"/"), "/")...)
		name = names[len(names)-1]
		for i, component := range names[:len(names)-1] {
			fd, err := unix.Openat(dir, component, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if i > 0 {
				unix.Close(dir)
			}
			if err != nil {
				return bad("it is a link to %.200q, which is not there: %v", target, err)
			}
			dir = fd
		}
		defer unix.Close(dir)
	}
	if err := unix.Linkat(dir, name, in, as, 0); errors.Is(err, unix.EEXIST) {
		return err
	} else if err != nil {
		return bad("it is a link to %.200q: %v", target, err)
	}
	return nil
}

// isBelow says whether an entry is not a root itself.
func (u *unpacker) isBelow(entry string) bool {
	_, is := u.roots[entry]
	return !is && entry != "." && entry != "/"
}

// dress gives an open file or folder its owner, mode, attributes and time. In this
// order: a new owner takes capabilities away, and a mode rights of an ACL.
func dress(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("cannot give it its owner: %w", err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return fmt.Errorf("cannot give it its mode: %w", err)
	}
	for _, record := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name := kept.Xattr(record); name != "" {
			if err := unix.Fsetxattr(fd, name, []byte(h.PAXRecords[record]), 0); err != nil {
				return fmt.Errorf("cannot give it its attribute %.100s: %w", name, err)
			}
		}
	}
	times, err := timesOf(h)
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times, 0)
	}
	if err != nil {
		return fmt.Errorf("cannot give it its time: %w", err)
	}
	return nil
}

// dressAt does the same to what cannot be opened. A symbolic link has no mode.
func dressAt(in int, as string, h *tar.Header, mode bool) error {
	if err := unix.Fchownat(in, as, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot give it its owner: %w", err)
	}
	if mode {
		// It is no symbolic link: it was just made, in a folder that nobody else uses.
		if err := unix.Fchmodat(in, as, uint32(h.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("cannot give it its mode: %w", err)
		}
	}
	for _, record := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name := kept.Xattr(record); name != "" {
			if err := unix.Lsetxattr(through(in, as), name, []byte(h.PAXRecords[record]), 0); err != nil {
				return fmt.Errorf("cannot give it its attribute %.100s: %w", name, err)
			}
		}
	}
	times, err := timesOf(h)
	if err == nil {
		err = unix.UtimesNanoAt(in, as, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("cannot give it its time: %w", err)
	}
	return nil
}

// timesOf is what a file's times are set to: that of the last change, for both.
func timesOf(h *tar.Header) ([]unix.Timespec, error) {
	t, err := unix.TimeToTimespec(h.ModTime)
	return []unix.Timespec{t, t}, err
}

package preserve

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/internal/kept"
)

// mostDepth is how deep folders may lie in each other: one is open for each.
const mostDepth = 256

// A packer goes through roots. Without a writer it counts.
type packer struct {
	ctx   context.Context
	to    *tar.Writer
	left  func(name, why string)
	links map[inode]*link // files with several names, of the root
	bytes int64           // of data
	files int64
	buf   []byte
}

type inode struct{ device, number uint64 }

type link struct {
	entry string
	more  uint64 // names that are still to come
}

// root goes through one.
func (p *packer) root(r kept.Root, place string) error {
	p.links = make(map[inode]*link)
	parent, err := unix.Open(filepath.Dir(place), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Dir(place), Err: err}
	}
	defer unix.Close(parent)
	if err := p.entry(parent, filepath.Base(place), r.Entry(), nil, 0); err != nil {
		return fmt.Errorf("%s: %w", place, err)
	}
	return nil
}

// entry goes through what has a name in a folder, which is the file system device's, or
// any's where that is nil. It follows no symbolic link, so that nobody who writes
// meanwhile leads it elsewhere.
func (p *packer) entry(dir int, name, entry string, device *uint64, depth int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	var s unix.Stat_t
	if err := unix.Fstatat(dir, name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if device != nil && errors.Is(err, unix.ENOENT) {
			return nil // it went meanwhile
		}
		return err
	}
	p.files++
	if s.Mode&unix.S_IFMT == unix.S_IFREG {
		p.bytes += stored(&s)
	}
	h := &tar.Header{
		Format: tar.FormatPAX, Name: entry, Mode: int64(s.Mode & 0o7777), Uid: int(s.Uid), Gid: int(s.Gid),
		ModTime: time.Unix(s.Mtim.Unix()),
	}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.folder(dir, name, h, &s, device, depth)
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if s.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(s.Rdev))), int64(unix.Minor(uint64(s.Rdev)))
	default: // a socket
		p.files--
		return nil
	}
	if p.to == nil {
		return nil
	}
	if s.Nlink > 1 {
		key := inode{uint64(s.Dev), s.Ino}
		if first := p.links[key]; first != nil {
			if first.more--; first.more == 0 {
				delete(p.links, key)
			}
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first.entry, 0
			return p.to.WriteHeader(h)
		}
		p.links[key] = &link{entry, uint64(s.Nlink) - 1}
	}
	if h.Typeflag == tar.TypeReg {
		return p.file(dir, name, h, &s)
	}
	if h.Typeflag == tar.TypeSymlink {
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, target)
		if err != nil {
			return err
		}
		h.Linkname = string(target[:n])
	}
	// There is no descriptor of such a thing to read attributes by.
	if err := attributes(h, func(list []byte) (int, error) { return unix.Llistxattr(through(dir, name), list) },
		func(attr string, value []byte) (int, error) { return unix.Lgetxattr(through(dir, name), attr, value) }); err != nil {
		return err
	}
	return p.to.WriteHeader(h)
}

// through is a path of a name in an open folder.
func through(dir int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
}

// stored is how many bytes of a file are not holes, more or less.
func stored(s *unix.Stat_t) int64 { return min(s.Size, int64(s.Blocks)*512) }

func (p *packer) folder(dir int, name string, h *tar.Header, s *unix.Stat_t, device *uint64, depth int) error {
	if depth == mostDepth {
		return fmt.Errorf("folders lie more than %d deep in each other: %.200s", mostDepth, h.Name)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if device != nil && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) {
			return nil
		}
		return err
	}
	folder := os.NewFile(uintptr(fd), h.Name)
	defer folder.Close()
	h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	if p.to != nil {
		if err := fileAttributes(h, fd); err != nil {
			return err
		}
		if err := p.to.WriteHeader(h); err != nil {
			return err
		}
	}
	own := uint64(s.Dev)
	if device != nil && own != *device {
		p.left(h.Name, "another file system is mounted there, which stays as it is")
		return nil
	}
	// In order, so that an archive of the same is the same.
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := p.entry(fd, n, h.Name+n, &own, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) file(dir int, name string, h *tar.Header, s *unix.Stat_t) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%.200s: %w", h.Name, err)
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer f.Close()
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Ino != s.Ino || now.Dev != s.Dev {
		return fmt.Errorf("%.200s was replaced while it was read: stop what writes there", h.Name)
	}
	if err := fileAttributes(h, fd); err != nil {
		return err
	}
	size := now.Size
	data := []kept.Extent{{Offset: 0, Length: size}}
	if int64(now.Blocks)*512 < size {
		if data, err = extents(fd, size); err != nil {
			return fmt.Errorf("%.200s: %w", h.Name, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[kept.SparseRecord] = kept.FormatSparse(size, data)
	}
	for _, e := range data {
		h.Size += e.Length
	}
	if err := p.to.WriteHeader(h); err != nil {
		return err
	}
	if p.buf == nil {
		p.buf = make([]byte, 256<<10)
	}
	for _, e := range data {
		if err := p.copy(f, e); err != nil {
			return fmt.Errorf("%.200s: %w", h.Name, err)
		}
	}
	return nil
}

// copy writes a piece of a file. What is cut off meanwhile is zeros, as GNU tar has
// it: its length was said already.
func (p *packer) copy(f *os.File, e kept.Extent) error {
	for e.Length > 0 {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		part := p.buf[:min(int64(len(p.buf)), e.Length)]
		n, err := f.ReadAt(part, e.Offset)
		if err != nil && err != io.EOF {
			return err
		}
		clear(part[n:])
		if _, err := p.to.Write(part); err != nil {
			return err
		}
		e.Offset, e.Length = e.Offset+int64(len(part)), e.Length-int64(len(part))
	}
	return nil
}

// extents are where a file has data (lseek(2), SEEK_DATA).
func extents(fd int, size int64) ([]kept.Extent, error) {
	var all []kept.Extent
	for at := int64(0); at < size; {
		begin, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(fd, begin, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		if len(all) == kept.MaxExtents-1 {
			end = size
		}
		begin, end = min(begin, size), min(end, size)
		if end > begin {
			all = append(all, kept.Extent{Offset: begin, Length: end - begin})
		}
		at = max(end, at+1)
	}
	return all, nil
}

func fileAttributes(h *tar.Header, fd int) error {
	return attributes(h, func(list []byte) (int, error) { return unix.Flistxattr(fd, list) },
		func(name string, value []byte) (int, error) { return unix.Fgetxattr(fd, name, value) })
}

// attributes adds extended attributes to a header.
func attributes(h *tar.Header, list func([]byte) (int, error), get func(string, []byte) (int, error)) error {
	names, err := grow(list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%.200s: cannot read its attributes: %w", h.Name, err)
	}
	for name := range bytes.SplitSeq(names, []byte{0}) {
		if len(name) == 0 {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return get(string(name), b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%.200s: cannot read its attribute %s: %w", h.Name, name, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[kept.XattrRecord(string(name))] = string(value)
	}
	return nil
}

// grow calls with a buffer that is large enough.
func grow(call func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := call(buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < 1<<17 {
			buf = make([]byte, 2*len(buf))
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

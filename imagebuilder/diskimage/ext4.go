package diskimage

import (
	"errors"
	"io"
	"io/fs"
	"path"

	"hatchery/internal/ext4"
)

// ext4Volume is an ext2, ext3 or ext4 file system.
type ext4Volume struct{ fs *ext4.FS }

// probeExt4 looks into an ext file system whose superblock was seen.
func probeExt4(p *Partition, r io.ReaderAt, size int64) volume {
	f, err := ext4.OpenLenient(r, size)
	if err != nil {
		p.problem("%v", bare(err))
		return nil
	}
	for _, fault := range f.Faults() {
		p.problem("%v; what is shown may be out of date", fault)
	}
	p.FSLabel, p.FSUUID, p.Features = f.Label(), f.UUID(), f.Features()
	u := f.Usage()
	p.Free = int64(u.FreeBlocks) * u.BlockSize
	p.Used = int64(u.Blocks)*u.BlockSize - p.Free
	return ext4Volume{f}
}

// bare gives the innermost of an error of internal/ext4: that it could not
// open the file system is said elsewhere.
func bare(err error) error {
	if inner := errors.Unwrap(err); inner != nil && !errors.Is(err, ext4.ErrNotExt4) {
		return inner
	}
	return err
}

func (v ext4Volume) lstat(p string) (Node, error) {
	info, err := v.fs.Lstat(p)
	if err != nil {
		return Node{}, translate(err)
	}
	n := Node{
		Path: p, Mode: info.Mode, UID: info.UID, GID: info.GID, Size: info.Size, ModTime: info.ModTime,
		Links: info.Links, Major: info.Major, Minor: info.Minor, Inode: uint64(info.Inode),
	}
	if n.Mode&fs.ModeSymlink != 0 {
		if n.Target, err = v.fs.Readlink(p); err != nil {
			n.Problem = cause(err)
		}
	}
	attrs, err := v.fs.Xattrs(p)
	if err != nil {
		n.Problem = cause(err)
	}
	if len(attrs) > 0 {
		n.Xattrs = attrs
	}
	return n, nil
}

func (v ext4Volume) readDir(p string) ([]Node, error) {
	entries, err := v.fs.ReadDir(p)
	if err != nil {
		return nil, translate(err)
	}
	nodes := make([]Node, 0, len(entries))
	for _, e := range entries {
		name := path.Join(p, e.Name)
		n, err := v.lstat(name)
		if err != nil { // the others can be read
			n = Node{Path: name, Mode: e.Type, Inode: uint64(e.Inode), Problem: cause(err)}
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (v ext4Volume) open(p string) (file, error) {
	f, err := v.fs.OpenFile(p)
	if err != nil {
		return nil, translate(err)
	}
	return ext4File{f}, nil
}

type ext4File struct{ *ext4.File }

func (ext4File) Close() error { return nil }

// translate gives the reasons that internal/ext4 has names of its own for
// those of this package.
func translate(err error) error {
	for from, to := range map[error]error{
		ext4.ErrIsDir: ErrIsDir, ext4.ErrNotDir: ErrNotDir, ext4.ErrNotRegular: ErrNotRegular, ext4.ErrLoop: ErrLoop,
	} {
		if errors.Is(err, from) {
			return to
		}
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// cause is an error's text without the path that it is about.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return err.Error()
}

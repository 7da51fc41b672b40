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
	n := ext4.Node{Info: info}
	if info.Mode&fs.ModeSymlink != 0 {
		n.Target, n.Err = v.fs.Readlink(p)
	}
	if n.Xattrs, err = v.fs.Xattrs(p); err != nil {
		n.Err = err
	}
	return nodeOf(p, n), nil
}

// nodeOf describes a file of an ext4 file system.
func nodeOf(p string, of ext4.Node) Node {
	n := Node{
		Path: p, Mode: of.Mode, UID: of.UID, GID: of.GID, Size: of.Size, ModTime: of.ModTime,
		Links: of.Links, Major: of.Major, Minor: of.Minor, Inode: uint64(of.Inode), Target: of.Target,
	}
	if len(of.Xattrs) > 0 {
		n.Xattrs = of.Xattrs
	}
	if of.Err != nil { // the others can be read
		n.Problem = cause(translate(of.Err))
	}
	return n
}

func (v ext4Volume) readDir(p string) ([]Node, error) {
	entries, err := v.fs.ReadNodes(p)
	if err != nil {
		return nil, translate(err)
	}
	nodes := make([]Node, len(entries))
	for i, e := range entries {
		nodes[i] = nodeOf(path.Join(p, e.Name), e)
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

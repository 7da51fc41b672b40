package diskimage

import (
	"errors"
	"io"
	"io/fs"
	"time"
)

// A Node describes one file of an image.
type Node struct {
	// Path is absolute and leads to the file itself: links to folders on the
	// way are resolved.
	Path         string
	Mode         fs.FileMode // with type bits
	UID, GID     uint32
	Size         int64 // bytes; of a symbolic link, its target's length
	ModTime      time.Time
	Links        uint32
	Major, Minor uint32 // of a device
	Inode        uint64 // within its file system; on FAT the first cluster
	Target       string // of a symbolic link
	Xattrs       map[string][]byte

	// Partition is the number of the partition that the file lies in.
	Partition int
	// Problem says why not all of this is known: an inode that is damaged, or
	// uses a feature that is not known here. Of the Mode then the type alone
	// may be right, and Open fails.
	Problem string
}

// IsDir says whether the node is a folder.
func (n Node) IsDir() bool { return n.Mode.IsDir() }

// A Tree is a file system, or several put together as they would be mounted.
// Paths are absolute and slash-separated. Symbolic links are followed within
// the tree: an absolute one leads from its root, and no ".." leads out of it.
// What is not there is an error that is [fs.ErrNotExist]. A Tree is for one
// goroutine at a time.
type Tree interface {
	// Lstat describes a file; links on the way are followed, one at the end
	// is not.
	Lstat(path string) (Node, error)
	// ReadDir lists a folder, sorted by name. Links are followed.
	ReadDir(path string) ([]Node, error)
	// Open opens a regular file for reading. Links are followed. What it gives
	// has ReadAt too ([io.ReaderAt]).
	Open(path string) (io.ReadCloser, error)
	// Walk visits root and all below it, a folder before what is in it, names
	// in order. A link is visited, not followed. [fs.SkipDir] and [fs.SkipAll]
	// work as in [fs.WalkDir].
	Walk(root string, visit func(Node) error) error
}

// Reasons of an [*fs.PathError] beside those of io/fs.
var (
	ErrIsDir      = errors.New("is a directory")
	ErrNotDir     = errors.New("not a directory")
	ErrNotRegular = errors.New("not a regular file")
	ErrLoop       = errors.New("too many levels of symbolic links")
	ErrTooLarge   = errors.New("file too large")
)

// Stat describes a file of a tree, and follows a symbolic link at the end of
// the path too.
func Stat(t Tree, path string) (Node, error) {
	for range maxLinks {
		n, err := t.Lstat(path)
		if err != nil || n.Mode&fs.ModeSymlink == 0 {
			return n, err
		}
		if path = n.Target; len(path) == 0 || path[0] != '/' {
			// Not cleaned: what ".." means is the tree's to say.
			path = parent(n.Path) + "/" + path
		}
	}
	return Node{}, &fs.PathError{Op: "stat", Path: path, Err: ErrLoop}
}

// ReadFile gives the content of a regular file of at most limit bytes;
// [ErrTooLarge] where it has more.
func ReadFile(t Tree, path string, limit int64) ([]byte, error) {
	f, err := t.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &fs.PathError{Op: "read", Path: path, Err: ErrTooLarge}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

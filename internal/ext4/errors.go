package ext4

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Reasons for which a file system is refused as a whole.
var (
	// ErrNotExt4 says that there is no ext4 superblock.
	ErrNotExt4 = errors.New("not an ext4 file system")
	// ErrDirtyJournal says that the journal holds changes that are not yet in
	// their places: mounting it once, or e2fsck, replays them.
	ErrDirtyJournal = errors.New("the journal must be replayed first (run e2fsck, or mount it once)")
	// ErrNotClean says that the file system was not unmounted, holds errors
	// or has orphans: e2fsck mends that.
	ErrNotClean = errors.New("the file system is not clean (run e2fsck)")
)

// Reasons for which an operation is refused. They come wrapped in an
// *fs.PathError; those of io/fs (ErrNotExist, ErrExist, ErrInvalid) too.
var (
	// ErrNoSpace says that blocks or inodes ran out.
	ErrNoSpace = errors.New("no space left in the file system")
	// ErrReadOnly says that the file system was opened with OpenReadOnly.
	ErrReadOnly = errors.New("opened read-only")
	// ErrIsDir says that a file was needed and a directory found.
	ErrIsDir = errors.New("is a directory")
	// ErrNotDir says that a directory was needed and something else found.
	ErrNotDir = errors.New("not a directory")
	// ErrNotEmpty says that a directory still holds entries.
	ErrNotEmpty = errors.New("directory not empty")
	// ErrNotRegular says that a regular file was needed.
	ErrNotRegular = errors.New("not a regular file")
	// ErrNotSymlink says that a symbolic link was needed.
	ErrNotSymlink = errors.New("not a symbolic link")
	// ErrLoop says that too many symbolic links were met on the way.
	ErrLoop = errors.New("too many levels of symbolic links")
	// ErrTooManyLinks says that an inode cannot take another name.
	ErrTooManyLinks = errors.New("too many links")
	// ErrNameTooLong says that a name has more than 255 bytes, or a symbolic
	// link's target does not fit a block.
	ErrNameTooLong = errors.New("name too long")
	// ErrTooLarge says that a file is larger than the format or the call allows.
	ErrTooLarge = errors.New("file too large")
	// ErrBusy says that a changing method was called from within another
	// one's reader.
	ErrBusy = errors.New("another operation is under way")
)

// An UnsupportedFeatureError names what a file system uses and this package
// does not know: it never guesses.
type UnsupportedFeatureError struct {
	Kind  string   // "incompat", "ro_compat", "compat", "missing", "inode", "geometry"
	Names []string // as tune2fs and mke2fs call them
}

func (e *UnsupportedFeatureError) Error() string {
	switch e.Kind {
	case "missing":
		return "ext4 feature needed but not present: " + strings.Join(e.Names, ", ")
	case "inode":
		return "unsupported ext4 inode flag: " + strings.Join(e.Names, ", ")
	case "geometry":
		return "unsupported ext4 geometry: " + strings.Join(e.Names, ", ")
	}
	return fmt.Sprintf("unsupported ext4 feature (%s): %s", e.Kind, strings.Join(e.Names, ", "))
}

// A CorruptError names a structure that cannot be right.
type CorruptError struct {
	Structure string // "group descriptor 3", "inode 12", "directory block"
	Block     uint64 // the block it lies in
	Detail    string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt ext4 %s in block %d: %s", e.Structure, e.Block, e.Detail)
}

func corrupt(structure string, block uint64, format string, args ...any) error {
	return &CorruptError{Structure: structure, Block: block, Detail: fmt.Sprintf(format, args...)}
}

// pathError wraps err once.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

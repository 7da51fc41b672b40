// Package difference says what two disk images differ in: partitions and file
// systems, every file that was added, removed, changed or renamed with a diff
// of its text, the kernel's command line as words, config.txt by section, and
// packages. `hatchery plan` and `hatchery inspect IMAGE diff OTHER` print it,
// as JSON or as a report (see [Difference.WriteText]).
//
// Images hold secrets, and their differences are read by many eyes. Of a
// private file neither text nor size nor digest is told, only that it differs.
// A file is private where, in either image, others may not read it, or may not
// enter a folder above it, or where [Options].Private names it.
//
// Images are foreign, too: whatever they hold, a comparison ends, in memory
// that is bounded, and no control character of theirs reaches the terminal.
package difference

import (
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// Format is what Difference.Format says. It rises when a consumer of the JSON
// would have to change; more keys are no reason.
const Format = 1

// A Difference is what two images differ in. Everything is in a fixed order:
// equal images give equal bytes.
type Difference struct {
	Format int   `json:"format"`
	Image  Image `json:"image"`
	// Cmdline is nil where the kernel's command line is the same, or not
	// there, or private.
	Cmdline *Cmdline `json:"cmdline,omitempty"`
	// Config is what config.txt sets otherwise, by section.
	Config   []Section `json:"config,omitempty"`
	Packages []Package `json:"packages,omitempty"`
	// Files are ordered by path, a folder before what is in it; a renamed one
	// stands under its new path.
	Files []File `json:"files"`
	// Touched are regular files that differ in nothing but the time of their
	// last change.
	Touched []Touched `json:"touched,omitempty"`
	Totals  Totals    `json:"totals"`
	// Problems are what could not be compared, and why.
	Problems []Text `json:"problems,omitempty"`
	// Unlisted counts files that differ and are in no list, because there are
	// more of them than any real pair of images has. Totals counts them.
	Unlisted int `json:"unlisted,omitempty"`
}

// Empty says whether the images do not differ, as far as could be seen. Files
// that are merely touched do not count.
func (d *Difference) Empty() bool {
	return d.Image.empty() && d.Cmdline == nil && len(d.Config) == 0 && len(d.Packages) == 0 &&
		len(d.Files) == 0 && d.Unlisted == 0
}

// A Change is a value that differs.
type Change[T any] struct {
	Was T `json:"was"`
	Is  T `json:"is"`
}

// An Image is what the images differ in below their files.
type Image struct {
	Was        Side            `json:"was"`
	Is         Side            `json:"is"`
	Size       *Change[int64]  `json:"size,omitempty"`       // bytes
	Table      *Change[string] `json:"table,omitempty"`      // the partition table's kind: mbr, gpt, ""
	DiskID     *Change[string] `json:"disk_id,omitempty"`    // of the partition table
	Partitions []Partition     `json:"partitions,omitempty"` // by number
}

func (i *Image) empty() bool {
	return i.Size == nil && i.Table == nil && i.DiskID == nil && len(i.Partitions) == 0
}

// A Side is one of the two images.
type Side struct {
	Name    string `json:"name,omitempty"`    // what Options calls it
	Size    int64  `json:"size,omitempty"`    // bytes
	Release Text   `json:"release,omitempty"` // what its os-release calls itself
}

// The kinds of change of a file, a partition or a package.
const (
	Added      = "added"
	Removed    = "removed"
	Changed    = "changed"
	Renamed    = "renamed"    // of a file only
	Installed  = "installed"  // of a package only, like those below
	Upgraded   = "upgraded"   //
	Downgraded = "downgraded" //
)

// A Partition is one that differs: in the partition table, or in what its
// file system says of itself.
type Partition struct {
	Number int    `json:"number"`
	Change string `json:"change"`
	// Name says which one it is to a reader: its file system and label.
	FileSystem Text              `json:"file_system,omitempty"`
	Label      Text              `json:"label,omitempty"`
	Values     []PartitionChange `json:"values,omitempty"` // of a changed one
	Was        *PartitionState   `json:"was,omitempty"`    // of a removed one
	Is         *PartitionState   `json:"is,omitempty"`     // of an added one
}

// A PartitionChange is one thing that differs about a partition. Numbers are
// in bytes.
type PartitionChange struct {
	// What is start, size, type, partition_label, partition_uuid, bootable,
	// file_system, label, uuid, features, file_system_size or used.
	What string `json:"what"`
	Was  any    `json:"was"` // an int64, a bool or a Text, like Is
	Is   any    `json:"is"`
	// Of features:
	Added   []Text `json:"added,omitempty"`
	Removed []Text `json:"removed,omitempty"`
}

// A PartitionState is where a partition lies. Numbers are in bytes.
type PartitionState struct {
	Start int64 `json:"start"`
	Size  int64 `json:"size"`
	Type  Text  `json:"type"`
}

// A Cmdline is what the kernel's command line, cmdline.txt, differs in, by
// words.
type Cmdline struct {
	Path    Text         `json:"path"`
	Added   []Text       `json:"added,omitempty"`
	Removed []Text       `json:"removed,omitempty"`
	Changed []CmdlineKey `json:"changed,omitempty"`
	// Reordered says that the words are the same, and their order is not.
	Reordered bool `json:"reordered,omitempty"`
}

// A CmdlineKey is a parameter that has another value.
type CmdlineKey struct {
	Key Text `json:"key"`
	Was Text `json:"was"` // values, without quotes
	Is  Text `json:"is"`
}

// A Section is what one section of config.txt differs in. Comments and the
// order of its settings do not count.
type Section struct {
	Name    Text   `json:"name"` // "all", or the filters that hold: "pi4", "edid=… pi4"
	Added   []Text `json:"added,omitempty"`
	Removed []Text `json:"removed,omitempty"`
}

// A Package is one that differs, as dpkg's status file tells.
type Package struct {
	Name   Text          `json:"name"`
	Change string        `json:"change"`
	Was    *PackageState `json:"was,omitempty"`
	Is     *PackageState `json:"is,omitempty"`
}

// A PackageState is what dpkg knows of a package.
type PackageState struct {
	Version      Text `json:"version"`
	Architecture Text `json:"architecture"`
	State        Text `json:"state"`          // installed, unpacked, half-configured, config-files, …
	Want         Text `json:"want,omitempty"` // unless it is install: hold, deinstall, purge
}

// A File is one that differs.
type File struct {
	Path   Text   `json:"path"` // what it is now, or was, if it is removed
	Change string `json:"change"`
	// RenamedFrom is the path of a renamed file before.
	RenamedFrom Text `json:"renamed_from,omitempty"`
	// With says that a file was renamed merely because a folder above it was.
	With bool `json:"with,omitempty"`
	// Differs lists what differs of a file that is in both images: type, mode,
	// owner, content, target, device, xattrs, hard_links.
	Differs []string   `json:"differs,omitempty"`
	Was     *FileState `json:"was,omitempty"`
	Is      *FileState `json:"is,omitempty"`
	// Private says that what is in the file is not told.
	Private bool `json:"private,omitempty"`
	// From is what [Options].Reason says.
	From Text `json:"from,omitempty"`
	// Diff is a unified diff of text, without the lines that name the files.
	// Of an added or removed file it has all lines.
	Diff Text `json:"diff,omitempty"`
	// NoDiff says why there is no diff of a content that differs: binary,
	// large, too-much (of diffs altogether), packages (it is told by Packages)
	// or unread.
	NoDiff string `json:"no_diff,omitempty"`
	// Partition is the number of the partition that the file lies in, where
	// it is not part of the root's tree, with paths from its own root.
	Partition int `json:"partition,omitempty"`
}

// A FileState is what a file is in one of the images.
type FileState struct {
	Type string `json:"type"` // file, folder, symlink, char_device, block_device, pipe, socket
	Mode string `json:"mode"` // as ls shows it
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Size and Digest are a regular file's, unless it is private.
	Size     *int64        `json:"size,omitempty"`
	Digest   digest.Digest `json:"digest,omitempty"` // of a content that differs
	Target   *Text         `json:"target,omitempty"` // of a symlink
	Major    *uint32       `json:"major,omitempty"`  // of a device
	Minor    *uint32       `json:"minor,omitempty"`
	Xattrs   []Xattr       `json:"xattrs,omitempty"`
	HardLink Text          `json:"hard_link,omitempty"` // another name of the same file
	Problem  Text          `json:"problem,omitempty"`   // why not all of it is known
}

// An Xattr is an extended attribute.
type Xattr struct {
	Name  Text   `json:"name"`
	Value string `json:"value,omitempty"` // in hexadecimal digits; not of a private file
}

// A Touched file differs only in the time of its last change.
type Touched struct {
	Path      Text      `json:"path"`
	Was       time.Time `json:"was"`
	Is        time.Time `json:"is"`
	Partition int       `json:"partition,omitempty"` // as a File's
}

// Totals count what differs.
type Totals struct {
	Added   Tally `json:"added"`
	Removed Tally `json:"removed"`
	// Changed counts as bytes what the contents that differ have now.
	Changed Tally `json:"changed"`
	// Renamed counts files that are renamed and nothing else; what is renamed
	// and changed counts as changed.
	Renamed Tally `json:"renamed"`
	Touched int   `json:"touched"`
	// Growth is by how many bytes the image is larger.
	Growth int64 `json:"growth"`
}

// A Tally counts files. Bytes are those of regular files, without private
// ones.
type Tally struct {
	Files   int   `json:"files"`
	Folders int   `json:"folders"`
	Other   int   `json:"other"` // symlinks, devices, …
	Bytes   int64 `json:"bytes"`
}

func (t Tally) count() int { return t.Files + t.Folders + t.Other }

// Options say how to compare. The functions are called by one goroutine at a
// time.
type Options struct {
	// WasName and IsName are what a reader knows the images by.
	WasName, IsName string
	// Private names files whose content is not told, beside those that others
	// may not read.
	Private func(path string) bool
	// Public names files whose content is told although others may not read
	// them: it is no secret.
	Public func(path string) bool
	// Reason says why a file is there, "" if that is not known.
	Reason func(path string) string
	// Same says of a regular file that is in both images, and of the same
	// size, that its content is known to be equal: it is not read then.
	Same func(path string) bool
	// BootPath is where the boot partition is mounted: "/boot/firmware".
	// [Compare] knows that itself, for each of the images.
	BootPath string
	// DiffFile is how many bytes a file may have, in either image, for its
	// text to be diffed; 0 is 2 MiB, less than 0 is none.
	DiffFile int64
	// DiffTotal is how many bytes all diffs may have together; 0 is 64 MiB.
	DiffTotal int64
	// Listed is how many files that differ are listed; 0 is 300,000.
	Listed int
	// ReadLimit is how many bytes of either image's files are read at most; 0
	// is, in Compare, four times the image's size and a GiB, elsewhere 256
	// GiB. Only files that are mostly holes get there.
	ReadLimit int64
}

func (o Options) withDefaults() Options {
	if o.Private == nil {
		o.Private = func(string) bool { return false }
	}
	if o.Public == nil {
		o.Public = func(string) bool { return false }
	}
	if o.Reason == nil {
		o.Reason = func(string) string { return "" }
	}
	if o.Same == nil {
		o.Same = func(string) bool { return false }
	}
	if o.DiffFile == 0 {
		o.DiffFile = 2 << 20
	}
	if o.DiffTotal == 0 {
		o.DiffTotal = 64 << 20
	}
	if o.Listed == 0 {
		o.Listed = 300_000
	}
	if o.ReadLimit == 0 {
		o.ReadLimit = 256 << 30
	}
	return o
}

// ErrDisorder says that a tree lists its files in no order, or twice: an image
// that is damaged.
var ErrDisorder = errors.New("files are listed in no order")

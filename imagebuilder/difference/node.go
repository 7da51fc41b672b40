package difference

import (
	"bytes"
	"encoding/hex"
	"io/fs"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/diskimage"
)

// Types of files.
const (
	typeFile    = "file"
	typeFolder  = "folder"
	typeSymlink = "symlink"
)

func typeOf(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return typeFile
	case fs.ModeDir:
		return typeFolder
	case fs.ModeSymlink:
		return typeSymlink
	case fs.ModeDevice | fs.ModeCharDevice:
		return "char_device"
	case fs.ModeDevice:
		return "block_device"
	case fs.ModeNamedPipe:
		return "pipe"
	case fs.ModeSocket:
		return "socket"
	}
	return "unknown"
}

// listedMode is a mode as ls shows it.
func listedMode(mode fs.FileMode) string {
	text := []byte("?rwxrwxrwx")
	switch mode.Type() {
	case 0:
		text[0] = '-'
	case fs.ModeDir:
		text[0] = 'd'
	case fs.ModeSymlink:
		text[0] = 'l'
	case fs.ModeDevice | fs.ModeCharDevice:
		text[0] = 'c'
	case fs.ModeDevice:
		text[0] = 'b'
	case fs.ModeNamedPipe:
		text[0] = 'p'
	case fs.ModeSocket:
		text[0] = 's'
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			text[1+i] = '-'
		}
	}
	for _, s := range []struct {
		bit    fs.FileMode
		at     int
		letter byte
	}{{fs.ModeSetuid, 3, 's'}, {fs.ModeSetgid, 6, 's'}, {fs.ModeSticky, 9, 't'}} {
		if mode&s.bit == 0 {
			continue
		}
		if text[s.at] == '-' {
			s.letter -= 'a' - 'A'
		}
		text[s.at] = s.letter
	}
	return string(text)
}

const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// What may differ of a file, as File.Differs says it.
const (
	differsType      = "type"
	differsMode      = "mode"
	differsOwner     = "owner"
	differsContent   = "content"
	differsTarget    = "target"
	differsDevice    = "device"
	differsXattrs    = "xattrs"
	differsHardLinks = "hard_links"
)

// metadata says what differs of a file without reading it: also its content,
// where the size differs. Folders' times and sizes say nothing.
func metadata(was, is *diskimage.Node) []string {
	var differs []string
	add := func(what string, different bool) {
		if different {
			differs = append(differs, what)
		}
	}
	sameType := was.Mode.Type() == is.Mode.Type()
	symlinks := sameType && was.Mode.Type() == fs.ModeSymlink
	add(differsType, !sameType)
	// A symlink's mode means nothing.
	add(differsMode, !symlinks && was.Mode&modeBits != is.Mode&modeBits)
	add(differsOwner, was.UID != is.UID || was.GID != is.GID)
	if sameType {
		add(differsContent, was.Mode.IsRegular() && was.Size != is.Size)
		add(differsTarget, symlinks && was.Target != is.Target)
		add(differsDevice, was.Mode&fs.ModeDevice != 0 && (was.Major != is.Major || was.Minor != is.Minor))
	}
	add(differsXattrs, !maps.EqualFunc(was.Xattrs, is.Xattrs, bytes.Equal))
	return differs
}

// state describes a file in one of the images. Of a private one it says
// nothing that could tell what is in it.
func state(n *diskimage.Node, private bool, sum digest.Digest, hardLink string) *FileState {
	if n == nil {
		return nil
	}
	s := &FileState{
		Type: typeOf(n.Mode), Mode: listedMode(n.Mode), UID: n.UID, GID: n.GID,
		HardLink: Text(hardLink), Problem: Text(n.Problem),
	}
	for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
		x := Xattr{Name: Text(name)}
		if !private {
			x.Value = hex.EncodeToString(n.Xattrs[name])
		}
		s.Xattrs = append(s.Xattrs, x)
	}
	if n.Mode&fs.ModeDevice != 0 {
		s.Major, s.Minor = &n.Major, &n.Minor
	}
	if private {
		return s
	}
	switch {
	case n.Mode.IsRegular():
		s.Size, s.Digest = &n.Size, sum
	case n.Mode&fs.ModeSymlink != 0:
		target := Text(n.Target)
		s.Target = &target
	}
	return s
}

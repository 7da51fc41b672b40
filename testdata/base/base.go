// Package base lends tests the files that the stand-in base images get on top
// of Debian's packages, so that a miniature of one holds the same files.
package base

import (
	"embed"
	"io/fs"
)

//go:embed all:bookworm/root all:bookworm/boot all:trixie/root all:trixie/boot
var releases embed.FS

// Files is Release("bookworm").
var Files = Release("bookworm")

// Release holds root/, which is laid over the root file system of the release
// with this code name, and boot/, laid over its boot partition. @DISKID@ and
// @DATE@ in them stand for the disk's id and the day of making. A release that
// has no stand-in has no files.
func Release(codename string) fs.FS {
	files, err := fs.Sub(releases, codename)
	if err != nil { // no valid name of a folder
		return embed.FS{}
	}
	return files
}

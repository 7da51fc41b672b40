// Package base lends tests the files that the stand-in base image gets on top
// of Debian's packages, so that a miniature of it holds the same ones.
package base

import "embed"

// Files holds root/, laid over the root file system, and boot/, laid over the
// boot partition. @DISKID@ and @DATE@ in them stand for the disk's id and the
// day of making.
//
//go:embed all:root all:boot
var Files embed.FS

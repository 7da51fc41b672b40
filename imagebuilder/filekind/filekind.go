// Package filekind tells by a file's first bytes whether it is a disk image,
// compressed or not, and what else it is where it is none: people download web
// pages, archives and installation CDs, and deserve to hear which.
package filekind

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// HeadSize is how much of a file is looked at, in bytes: up to where a CD's
// file system says that it is one.
const HeadSize = 33 << 10

// A Format is how an image is stored.
type Format int

// What an image can be stored as.
const (
	Other Format = iota // no image
	Raw
	XZ
	Gzip
	Zstd
	Zip
)

// A Kind is what a file's first bytes look like.
type Kind struct {
	Format Format
	Name   string // of what is no image: "an HTML page"
	Hint   string // what is wanted, or a guess at what happened; may be empty
}

// Image says whether it may be an image, compressed or not.
func (k Kind) Image() bool { return k.Format != Other }

// Is says what a file that is no image is, as the rest of a sentence.
func (k Kind) Is() string {
	s := "is " + k.Name + ", not an image"
	if k.Hint != "" {
		s += ": " + k.Hint
	}
	return s
}

const (
	unpackFirst = "unpack it first; .img, .xz, .gz, .zst and .zip are known here"
	convert     = "convert it to a raw image first"
	wholeDisk   = "the image of a whole disk is wanted, with a partition table"
	serverError = "was it an error from a server?"
)

// strangers are files that people take for images now and then.
var strangers = []struct {
	offset            int
	magic, name, hint string
}{
	{0, "BZh", "a bzip2 file", unpackFirst},
	{0, "\x04\x22\x4d\x18", "an lz4 file", unpackFirst},
	{0, "7z\xbc\xaf\x27\x1c", "a 7-Zip archive", unpackFirst},
	{0, "Rar!", "a RAR archive", unpackFirst},
	{257, "ustar", "a tar archive", "a disk image is wanted, not a tree of files"},
	{0, "\x7fELF", "a program", ""},
	{0, "%PDF", "a PDF document", ""},
	{0, "QFI\xfb", "a qcow2 disk", convert},
	{0, "KDMV", "a VMware disk", convert},
	{0, "vhdxfile", "a Hyper-V disk", convert},
	{64, "\x7f\x10\xda\xbe", "a VirtualBox disk", convert},
	{0, "\x3a\xff\x26\xed", "an Android sparse image", "convert it with simg2img first"},
	{0, "hsqs", "a squashfs file system", wholeDisk},
	{0, "!<arch>\n", "a Debian package or a library", ""},
	{0, "-----BEGIN ", "a key, a certificate or a signature", "the file beside it is wanted"},
	{0, "d8:announce", "a torrent", "the file that it leads to is wanted"},
}

// isCD says whether an ISO 9660 file system begins here: its first volume
// descriptor is the 17th sector of 2 KiB (ECMA-119, 6.7 and 8.1).
func isCD(head []byte) bool {
	const at = 16*2048 + 1
	return len(head) >= at+5 && string(head[at:at+5]) == "CD001"
}

// Hybrid says whether a raw image is a CD's at the same time, as those are
// that installers for PCs come on.
func Hybrid(head []byte) bool { return Of(head).Format == Raw && isCD(head) }

// Of tells a file by its first bytes: HeadSize, or all there is.
func Of(head []byte) Kind {
	has := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case len(head) == 0:
		return Kind{Name: "an empty file"}
	case has(0, "\xfd7zXZ\x00"):
		return Kind{Format: XZ}
	case has(0, "\x1f\x8b\x08"):
		return Kind{Format: Gzip}
	case has(0, "\x28\xb5\x2f\xfd"), len(head) > 4 && binary.LittleEndian.Uint32(head)&^0xf == 0x184d2a50:
		return Kind{Format: Zstd}
	case has(0, "PK\x03\x04"), has(0, "PK\x05\x06"):
		return Kind{Format: Zip}
	}
	for _, s := range strangers {
		if has(s.offset, s.magic) {
			return Kind{Name: s.name, Hint: s.hint}
		}
	}
	switch {
	case has(510, "\x55\xaa"):
		return Kind{Format: Raw}
	case isCD(head):
		return Kind{Name: "a CD (ISO 9660)", Hint: wholeDisk}
	case has(1080, "\x53\xef"):
		return Kind{Name: "a bare ext file system", Hint: wholeDisk}
	}
	return ofText(head)
}

func ofText(head []byte) Kind {
	head = head[:min(len(head), 4096)]
	text := bytes.ToLower(bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n"))
	switch {
	case bytes.HasPrefix(text, []byte("<!doctype html")), bytes.HasPrefix(text, []byte("<html")), bytes.Contains(text, []byte("<head>")):
		return Kind{Name: "an HTML page", Hint: "was it a log-in or error page?"}
	case bytes.HasPrefix(text, []byte("<?xml")) && bytes.Contains(text, []byte("<bmap ")), bytes.HasPrefix(text, []byte("<bmap ")):
		return Kind{Name: "a block map", Hint: "the image that it belongs to is wanted"}
	case bytes.HasPrefix(text, []byte("<?xml")):
		return Kind{Name: "an XML document", Hint: serverError}
	case bytes.HasPrefix(text, []byte("{")) && utf8.Valid(text):
		return Kind{Name: "a JSON document", Hint: serverError}
	case isText(head):
		return Kind{Name: "a text file"}
	case len(bytes.Trim(head, "\x00")) == 0:
		return Kind{Name: "a file that begins with nothing but zeros", Hint: wholeDisk}
	}
	return Kind{Name: "an unknown kind of file", Hint: "it has no partition table (no 55 AA at offset 510)"}
}

func isText(head []byte) bool {
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 && len(head) >= utf8.UTFMax {
			return false
		}
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' && r != '\f' {
			return false
		}
		head = head[n:]
	}
	return true
}

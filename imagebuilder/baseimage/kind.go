package baseimage

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// sniffSize is how much of a file is looked at to tell what it is.
const sniffSize = 4096

// A kind is what a file's first bytes look like.
type kind struct {
	format format
	name   string // for what is no image: "an HTML page"
	hint   string // a guess at what happened
}

type format int

const (
	other format = iota
	raw
	xzFile
	gzipFile
	zstdFile
	zipFile
)

// image says whether it may be an image, compressed or not.
func (k kind) image() bool { return k.format != other }

// is says what it is, as the rest of a sentence.
func (k kind) is() string {
	s := "is " + k.name + ", not an image"
	if k.hint != "" {
		s += ": " + k.hint
	}
	return s
}

// strangers are files that people take for images now and then.
var strangers = []struct {
	offset int
	magic  string
	name   string
	hint   string
}{
	{0, "BZh", "a bzip2 file", "unpack it first; .img, .xz, .gz, .zst and .zip are known here"},
	{0, "7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first; .img, .xz, .gz, .zst and .zip are known here"},
	{0, "Rar!", "a RAR archive", "unpack it first; .img, .xz, .gz, .zst and .zip are known here"},
	{257, "ustar", "a tar archive", "a disk image is wanted, not a tree of files"},
	{0, "\x7fELF", "a program", ""},
	{0, "%PDF", "a PDF document", ""},
	{0, "QFI\xfb", "a qcow2 disk", "convert it to a raw image first"},
	{0, "KDMV", "a VMware disk", "convert it to a raw image first"},
	{0, "hsqs", "a squashfs file system", "the image of a whole disk is wanted"},
	{0, "!<arch>\n", "a Debian package or a library", ""},
	{0, "-----BEGIN ", "a key, a certificate or a signature", "the file beside it is wanted"},
	{0, "d8:announce", "a torrent", "the file that it leads to is wanted"},
}

// recognize tells a file by its first bytes (sniffSize, or all there is).
func recognize(head []byte) kind {
	has := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case len(head) == 0:
		return kind{name: "an empty file"}
	case has(0, "\xfd7zXZ\x00"):
		return kind{format: xzFile}
	case has(0, "\x1f\x8b\x08"):
		return kind{format: gzipFile}
	case has(0, "\x28\xb5\x2f\xfd"), len(head) > 4 && binary.LittleEndian.Uint32(head)&^0xf == 0x184d2a50:
		return kind{format: zstdFile}
	case has(0, "PK\x03\x04"), has(0, "PK\x05\x06"):
		return kind{format: zipFile}
	}
	for _, s := range strangers {
		if has(s.offset, s.magic) {
			return kind{name: s.name, hint: s.hint}
		}
	}
	if has(510, "\x55\xaa") {
		return kind{format: raw}
	}
	if has(1080, "\x53\xef") {
		return kind{name: "a bare ext file system", hint: "the image of a whole disk is wanted, with a partition table"}
	}
	text := bytes.ToLower(bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n"))
	switch {
	case bytes.HasPrefix(text, []byte("<!doctype html")), bytes.HasPrefix(text, []byte("<html")), bytes.Contains(text, []byte("<head>")):
		return kind{name: "an HTML page", hint: "was it a log-in or error page?"}
	case bytes.HasPrefix(text, []byte("<?xml")):
		return kind{name: "an XML document", hint: "was it an error from a server?"}
	case bytes.HasPrefix(text, []byte("{")) && utf8.Valid(text):
		return kind{name: "a JSON document", hint: "was it an error from a server?"}
	case isText(head):
		return kind{name: "a text file"}
	case len(bytes.Trim(head, "\x00")) == 0:
		return kind{name: "a file that begins with nothing but zeros"}
	}
	return kind{name: "an unknown kind of file", hint: "it has no partition table (no 55 AA at offset 510)"}
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

package parttable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"unicode/utf8"
)

// headSize holds the MBR and, behind it, the GPT header of a disk with 512 or
// 4096 bytes a sector.
const headSize = 4096 + 8

func readHead(r io.ReaderAt, size int64) ([]byte, error) {
	if size < SectorSize {
		saw := fmt.Sprintf("a file of %d bytes", size)
		if size == 0 {
			saw = "an empty file"
		}
		return nil, &NoTableError{Saw: saw, Remedy: remedyImage}
	}
	head := make([]byte, min(size, headSize))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("cannot read the partition table: %w", err)
	}
	return head, nil
}

// recognise refuses what is no MBR disk, by name where it can.
func recognise(head []byte, r io.ReaderAt, size int64) error {
	for _, form := range []struct {
		offset      int
		magic, name string
		remedy      string
	}{
		{0, "\x1f\x8b", "gzip-compressed data", remedyUnpack},
		{0, "\xfd7zXZ\x00", "xz-compressed data", remedyUnpack},
		{0, "\x28\xb5\x2f\xfd", "zstd-compressed data", remedyUnpack},
		{0, "PK\x03\x04", "a zip archive", remedyUnpack},
		{0, "BZh", "bzip2-compressed data", remedyUnpack},
		{0, "7z\xbc\xaf\x27\x1c", "a 7-Zip archive", remedyUnpack},
		{0, "QFI\xfb", "a QEMU qcow2 image", "convert it to a raw image first"},
		{3, "EXFAT   ", "an exFAT file system without a partition table", remedyImage},
		{3, "NTFS    ", "an NTFS file system without a partition table", remedyImage},
		{54, "FAT1", "a FAT file system without a partition table", remedyImage},
		{82, "FAT32", "a FAT32 file system without a partition table", remedyImage},
	} {
		if bytes.HasPrefix(head[form.offset:], []byte(form.magic)) {
			return &NoTableError{Saw: form.name, Remedy: form.remedy}
		}
	}
	for _, sector := range []int{512, 4096} {
		if len(head) >= sector+8 && string(head[sector:sector+8]) == "EFI PART" {
			return &GPTError{Evidence: fmt.Sprintf("a GPT header at byte %d", sector)}
		}
	}
	if binary.LittleEndian.Uint16(head[510:]) != 0xaa55 {
		return noSignature(head, r, size)
	}
	for i := range 4 {
		if head[entriesOffset+i*entrySize+4] == 0xee {
			return &GPTError{Evidence: fmt.Sprintf("partition %d protects it, type 0xee", i+1)}
		}
	}
	return nil
}

// noSignature names what has not even the boot signature.
func noSignature(head []byte, r io.ReaderAt, size int64) error {
	text := bytes.ToLower(bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n"))
	for _, mark := range []string{"<!doctype html", "<html", "<head", "<!--"} {
		if bytes.HasPrefix(text, []byte(mark)) {
			return &NoTableError{Saw: "a web page (HTML)", Remedy: remedyURL}
		}
	}
	if bytes.HasPrefix(text, []byte("<?xml")) {
		return &NoTableError{Saw: "an XML document", Remedy: remedyURL}
	}
	if isText(head) {
		return &NoTableError{Saw: "a text file", Remedy: remedyURL}
	}
	var magic [8]byte
	if _, err := r.ReadAt(magic[:2], 1080); err == nil && size > 1082 && string(magic[:2]) == "\x53\xef" {
		return &NoTableError{Saw: "an ext4 file system without a partition table", Remedy: remedyImage}
	}
	if _, err := r.ReadAt(magic[:5], 32769); err == nil && size > 32774 && string(magic[:5]) == "CD001" {
		return &NoTableError{Saw: "an ISO 9660 image", Remedy: remedyImage}
	}
	if len(bytes.Trim(head, "\x00")) == 0 {
		return &NoTableError{Saw: "a file that begins with zeros", Remedy: remedyImage}
	}
	return &NoTableError{Saw: fmt.Sprintf("data that begins with % x and has no boot signature", head[:8]), Remedy: remedyImage}
}

func isText(b []byte) bool {
	for i, c := range b {
		if c < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f' || c == 0x7f {
			return false
		}
		// The cut at the end of b may fall into a rune.
		if c >= utf8.RuneSelf && i < len(b)-utf8.UTFMax && utf8.RuneStart(c) {
			if r, n := utf8.DecodeRune(b[i:]); r == utf8.RuneError && n < 2 {
				return false
			}
		}
	}
	return true
}

// sectorFile shows go-diskfs the sector that was read and checked, so that it
// parses those very bytes.
type sectorFile struct{ sector []byte }

func (f sectorFile) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(f.sector).ReadAt(b, off)
}
func (f sectorFile) Read([]byte) (int, error)       { return 0, io.EOF }
func (f sectorFile) Seek(int64, int) (int64, error) { return 0, nil }
func (f sectorFile) Stat() (fs.FileInfo, error)     { return nil, fs.ErrInvalid }
func (f sectorFile) Close() error                   { return nil }

package diskimage

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// A volume is one file system. Its paths lead through no symbolic links: the
// tree has resolved them.
type volume interface {
	lstat(path string) (Node, error)
	readDir(path string) ([]Node, error)
	open(path string) (file, error)
}

type file interface {
	io.ReadCloser
	io.ReaderAt
}

// problem adds to what is wrong with a partition.
func (p *Partition) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if p.Problem != "" {
		text = p.Problem + "; " + text
	}
	p.Problem = text
}

// probe finds out what lies in a partition.
func (im *Image) probe(p *Partition) error {
	size := min(p.Size, im.size-p.Start)
	if p.isExtended() || size < 2*sectorSize {
		return nil
	}
	r := io.NewSectionReader(im.r, p.Start, size)
	head := make([]byte, superblocks)
	if err := readAt(r, head, 0); err != nil {
		return err
	}
	var v volume
	switch {
	case binary.LittleEndian.Uint16(head[1024+56:]) == 0xef53:
		p.FileSystem = extName(head[1024:])
		v = probeExt4(p, r, size)
	case fatBootSector(head) && !whole(head):
		p.FileSystem = "vfat"
		v = probeFAT(p, r, size, head[:sectorSize])
	default:
		recognise(p, head)
	}
	if v != nil {
		p.Readable = true
		im.volumes[p.Number] = v
	}
	return nil
}

// superblocks is how much of a partition is looked at: behind it no file system
// on the list has its superblock.
const superblocks = 68 << 10

// extName tells ext2, ext3 and ext4 apart as blkid does: by what each could not
// mount.
func extName(sb []byte) string {
	le32 := binary.LittleEndian.Uint32
	compat, incompat, ro := le32(sb[0x5c:]), le32(sb[0x60:]), le32(sb[0x64:])
	const journal, journalDevice = 0x4, 0x8
	switch {
	case incompat&journalDevice != 0:
		return "jbd"
	case incompat&^(0x2|0x4|0x10) != 0 || ro&^(0x1|0x2|0x4) != 0: // filetype, recover, meta_bg; sparse_super, large_file, btree_dir
		return "ext4"
	case compat&journal != 0:
		return "ext3"
	}
	return "ext2"
}

// recognise names a file system, or whatever else, by its magic number. The
// places of magic, label and UUID are facts of each format, as blkid(8) knows
// them.
func recognise(p *Partition, head []byte) {
	for _, k := range kinds {
		if !bytes.HasPrefix(head[k.offset:], []byte(k.magic)) {
			continue
		}
		p.FileSystem = k.name
		if k.label != nil {
			p.FSLabel = k.label(head)
		}
		if k.uuid != nil {
			p.FSUUID = k.uuid(head)
		}
		return
	}
}

type kind struct {
	offset int
	magic  string
	name   string
	label  func([]byte) string
	uuid   func([]byte) string
}

var kinds = []kind{
	{0, "LUKS\xba\xbe\x00\x01", "crypto_LUKS", nil, plainText(168, 40)},
	{0, "LUKS\xba\xbe", "crypto_LUKS", plainText(24, 48), plainText(168, 40)},
	{512 + 24, "LVM2 001", "LVM2_member", nil, nil},
	{4096, "\xfc\x4e\x2b\xa9", "linux_raid_member", plainText(4096+32, 32), rawUUID(4096 + 16)},
	{0, "hsqs", "squashfs", nil, nil},
	{0, "XFSB", "xfs", plainText(108, 12), rawUUID(32)},
	{0x10040, "_BHRfS_M", "btrfs", plainText(0x1012b, 256), rawUUID(0x10020)},
	{1024, "\x10\x20\xf5\xf2", "f2fs", utf16Text(1024+124, 512), rawUUID(1024 + 108)},
	{1024, "\xe2\xe1\xf5\xe0", "erofs", plainText(1024+64, 16), rawUUID(1024 + 48)},
	{3, "NTFS    ", "ntfs", nil, serial(72, 8)},
	{3, "EXFAT   ", "exfat", nil, serial(100, 4)},
	{3, "-FVE-FS-", "BitLocker", nil, nil},
	{4096 - 10, "SWAPSPACE2", "swap", plainText(1024+28, 16), rawUUID(1024 + 12)},
	{16384 - 10, "SWAPSPACE2", "swap", plainText(1024+28, 16), rawUUID(1024 + 12)},
	{65536 - 10, "SWAPSPACE2", "swap", plainText(1024+28, 16), rawUUID(1024 + 12)},
	{32769, "CD001", "iso9660", plainText(32808, 32), nil},
	{32769, "BEA01", "udf", nil, nil},
	{32768, "JFS1", "jfs", plainText(32768+152, 16), rawUUID(32768 + 136)},
	{65536 + 52, "ReIsEr", "reiserfs", plainText(65536+100, 16), rawUUID(65536 + 84)},
	{1024 + 6, "\x34\x34", "nilfs2", nil, nil},
	{1024, "H+\x00\x04", "hfsplus", nil, nil},
	{32, "NXSB", "apfs", nil, rawUUID(72)},
	{0, "\x45\x3d\xcd\x28", "cramfs", plainText(48, 16), nil},
	{0, "-rom1fs-", "romfs", plainText(16, 16), nil},
	{0, "\x31\x18\x10\x06", "ubifs", nil, nil},
	{0, "UBI#", "ubi", nil, nil},
	{0, "\x85\x19", "jffs2", nil, nil},
	{0, "\x3a\xff\x26\xed", "Android sparse image", nil, nil},
	{0, "ANDROID!", "Android boot image", nil, nil},
	{0, "QFI\xfb", "qcow2 disk image", nil, nil},
	{0, "KDMV", "VMDK disk image", nil, nil},
	{0, "vhdxfile", "VHDX disk image", nil, nil},
	{0, "\x1f\x8b", "gzip-compressed data", nil, nil},
	{0, "\xfd7zXZ\x00", "xz-compressed data", nil, nil},
	{0, "\x28\xb5\x2f\xfd", "zstd-compressed data", nil, nil},
	{0, "PK\x03\x04", "zip archive", nil, nil},
	{0, "BZh", "bzip2-compressed data", nil, nil},
	{0, "7z\xbc\xaf\x27\x1c", "7-Zip archive", nil, nil},
	{257, "ustar", "tar archive", nil, nil},
}

func plainText(off, n int) func([]byte) string {
	return func(b []byte) string {
		text, _, _ := bytes.Cut(b[off:off+n], []byte{0})
		return strings.TrimRight(strings.ToValidUTF8(string(text), "�"), " ")
	}
}

func utf16Text(off, units int) func([]byte) string {
	return func(b []byte) string {
		var text []uint16
		for i := range units {
			u := binary.LittleEndian.Uint16(b[off+2*i:])
			if u == 0 {
				break
			}
			text = append(text, u)
		}
		return string(utf16.Decode(text))
	}
}

func rawUUID(off int) func([]byte) string {
	return func(b []byte) string {
		h := hex.EncodeToString(b[off : off+16])
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	}
}

// serial is a volume's number, least significant byte first.
func serial(off, n int) func([]byte) string {
	return func(b []byte) string {
		var s string
		for i := range n {
			s = fmt.Sprintf("%02X", b[off+i]) + s
		}
		if n == 4 {
			s = s[:4] + "-" + s[4:]
		}
		return s
	}
}

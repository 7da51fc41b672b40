package diskimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// sectorSize is the unit of an MBR.
const sectorSize = 512

// readAt fills p from the image; what lies behind its end are zeros.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) || errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// readTable finds out how the image is partitioned. The order is the kernel's
// and blkid's: a file system may begin with what looks like a table, a GPT is
// behind what looks like an MBR.
func (im *Image) readTable() error {
	head := make([]byte, headSize)
	if err := readAt(im.r, head, 0); err != nil {
		return err
	}
	if found, err := im.readGPT(head); found || err != nil {
		return err
	}
	signed := binary.LittleEndian.Uint16(head[510:]) == 0xaa55
	if signed && !fatBootSector(head) && !whole(head) {
		found, err := im.readMBR(head[:sectorSize])
		if found || err != nil {
			return err
		}
	}
	im.partitions = []Partition{{Size: im.size}}
	return nil
}

// whole says whether the image begins with a file system whose boot sector
// has the signature of a table.
func whole(head []byte) bool {
	switch string(head[3:11]) {
	case "EXFAT   ", "NTFS    ", "-FVE-FS-":
		return true
	}
	return false
}

// headSize is how much of the image's beginning is looked at: MBR and GPT
// header, of sectors of 512 or 4096 bytes.
const headSize = 2 * 4096

const (
	entriesOffset = 446
	entrySize     = 16
	// mostLogical bounds the chain of logical partitions; the kernel numbers
	// partitions up to 255.
	mostLogical = 250
)

type mbrEntry struct {
	active       byte
	kind         byte
	start, count int64 // sectors
}

func parseEntry(b []byte) mbrEntry {
	return mbrEntry{
		active: b[0], kind: b[4],
		start: int64(binary.LittleEndian.Uint32(b[8:])),
		count: int64(binary.LittleEndian.Uint32(b[12:])),
	}
}

func (e mbrEntry) extended() bool { return e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85 }

// readMBR reads the table in the image's first sector. It says no where none
// of the entries makes sense: then the signature was something else's.
func (im *Image) readMBR(sector []byte) (found bool, err error) {
	id := binary.LittleEndian.Uint32(sector[440:])
	var primary []mbrEntry
	for i := range 4 {
		e := parseEntry(sector[entriesOffset+i*entrySize:])
		if e.active&0x7f != 0 {
			return false, nil
		}
		primary = append(primary, e)
	}
	im.table = Table{Kind: MBR, DiskID: fmt.Sprintf("%08x", id), SectorSize: sectorSize}
	var chain mbrEntry
	for i, e := range primary {
		switch {
		case e.kind == 0 || e.count == 0:
		case e.extended():
			if chain.count == 0 {
				chain = e
			}
			im.addMBR(id, i+1, e, 0)
		default:
			im.addMBR(id, i+1, e, 0)
		}
	}
	if chain.count > 0 {
		if err := im.readLogical(id, chain); err != nil {
			return true, err
		}
	}
	if len(im.partitions) == 0 {
		im.table.Problem = "the partition table is empty"
	}
	im.checkOverlap()
	return true, nil
}

// readLogical follows the chain of sectors in an extended partition: each
// describes one logical partition and where the next such sector is.
func (im *Image) readLogical(id uint32, extended mbrEntry) error {
	seen := map[int64]bool{}
	sector := make([]byte, sectorSize)
	number := 5
	for at := extended.start; ; {
		if seen[at] || number-5 >= mostLogical {
			im.table.Problem = "the chain of logical partitions goes round in circles"
			return nil
		}
		seen[at] = true
		if at*sectorSize >= im.size {
			im.table.Problem = "the chain of logical partitions leads out of the image"
			return nil
		}
		if err := readAt(im.r, sector, at*sectorSize); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(sector[510:]) != 0xaa55 {
			im.table.Problem = fmt.Sprintf("logical partition %d: no table at sector %d", number, at)
			return nil
		}
		if e := parseEntry(sector[entriesOffset:]); e.kind != 0 && e.count != 0 {
			im.addMBR(id, number, e, at)
			number++
		}
		next := parseEntry(sector[entriesOffset+entrySize:])
		if !next.extended() || next.count == 0 {
			return nil
		}
		at = extended.start + next.start
	}
}

func (im *Image) addMBR(id uint32, number int, e mbrEntry, from int64) {
	p := Partition{
		Number: number, Type: fmt.Sprintf("%02x", e.kind), TypeName: mbrTypes[e.kind],
		Bootable: e.active == 0x80,
		Start:    (from + e.start) * sectorSize, Size: e.count * sectorSize,
	}
	if id != 0 {
		p.UUID = fmt.Sprintf("%08x-%02x", id, number)
	}
	im.add(p)
}

// add takes a partition, and notes where it does not fit the image.
func (im *Image) add(p Partition) {
	if p.Start >= im.size || p.Size > im.size-p.Start {
		p.Problem = fmt.Sprintf("it reaches past the end of the image, which is cut short: it ends at byte %d, the image at %d", p.Start+p.Size, im.size)
	}
	im.partitions = append(im.partitions, p)
}

// checkOverlap notes partitions that claim the same bytes, but for what lies
// in an extended one.
func (im *Image) checkOverlap() {
	for i := range im.partitions {
		p := &im.partitions[i]
		for j := range im.partitions[:i] {
			q := &im.partitions[j]
			if p.isExtended() || q.isExtended() || p.Start >= q.Start+q.Size || q.Start >= p.Start+p.Size {
				continue
			}
			if p.Problem == "" {
				p.Problem = fmt.Sprintf("it overlaps partition %d", q.Number)
			}
		}
	}
}

func (p *Partition) isExtended() bool {
	return p.Type == "05" || p.Type == "0f" || p.Type == "85"
}

// mbrTypes are names of partition types, as fdisk has them.
var mbrTypes = map[byte]string{
	0x01: "FAT12", 0x04: "FAT16 <32M", 0x05: "Extended", 0x06: "FAT16", 0x07: "HPFS/NTFS/exFAT",
	0x0b: "W95 FAT32", 0x0c: "W95 FAT32 (LBA)", 0x0e: "W95 FAT16 (LBA)", 0x0f: "W95 Ext'd (LBA)",
	0x27: "Hidden NTFS WinRE", 0x82: "Linux swap / Solaris", 0x83: "Linux", 0x85: "Linux extended",
	0x8e: "Linux LVM", 0xa5: "FreeBSD", 0xa6: "OpenBSD", 0xa9: "NetBSD", 0xaf: "HFS / HFS+",
	0xda: "Non-FS data", 0xee: "GPT", 0xef: "EFI (FAT-12/16/32)", 0xfd: "Linux raid autodetect",
}

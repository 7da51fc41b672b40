package bootpart

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// geometry is what the boot sector says about where things are. Offsets are
// in bytes from the partition's start.
type geometry struct {
	sectorSize  int64
	clusterSize int64
	clusters    uint32 // data clusters; they are numbered 2 to clusters+1
	rootCluster uint32
	fats        []int64 // offset of each copy of the FAT
	dataStart   int64
	end         int64   // of the file system
	infos       []int64 // FSInfo sector and its backup, where there are any
	volumeID    uint32
}

const (
	bootSectorSize = 512
	// maxTable bounds the memory that a FAT may take: 16 M clusters.
	maxTable = 64 << 20
)

// parseGeometry reads the boot sector (and the bytes behind it, which name
// what else may be there) of a partition of size bytes.
func parseGeometry(head []byte, size int64) (*geometry, error) {
	if found := otherFileSystem(head); found != "" {
		return nil, &NotFAT32Error{Found: found}
	}
	b, le16, le32 := head, binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	bad := func(format string, args ...any) error { return corrupt("boot sector", format, args...) }

	g := &geometry{sectorSize: int64(le16(b[11:])), rootCluster: le32(b[44:]), volumeID: le32(b[67:])}
	perCluster, reserved, copies := int64(b[13]), int64(le16(b[14:])), int64(b[16])
	perFAT, total := int64(le32(b[36:])), int64(le32(b[32:]))
	if t := int64(le16(b[19:])); t != 0 {
		total = t
	}
	switch {
	case g.sectorSize < 512 || g.sectorSize > 4096 || bits.OnesCount64(uint64(g.sectorSize)) != 1:
		return nil, bad("%d bytes a sector", g.sectorSize)
	case perCluster == 0 || perCluster&(perCluster-1) != 0:
		return nil, bad("%d sectors a cluster", perCluster)
	case reserved == 0:
		return nil, bad("no reserved sectors")
	case copies < 1 || copies > 2:
		return nil, bad("%d copies of the FAT", copies)
	case le16(b[42:]) != 0:
		return nil, &UnsupportedError{Feature: "a version other than 0.0"}
	case b[40]&0x80 != 0:
		return nil, &UnsupportedError{Feature: "a FAT that is not mirrored"}
	case total > size/g.sectorSize:
		return nil, bad("it claims %d sectors, the partition has %d", total, size/g.sectorSize)
	case b[65]&3 != 0:
		return nil, ErrNotClean
	}
	g.clusterSize = perCluster * g.sectorSize
	first := reserved + copies*perFAT
	if first+perCluster > total {
		return nil, bad("%d reserved sectors and %d FATs of %d sectors leave no room for data in %d", reserved, copies, perFAT, total)
	}
	clusters := (total - first) / perCluster
	if (clusters+2)*4 > maxTable {
		return nil, &UnsupportedError{Feature: "more than 16 million clusters"}
	}
	if (clusters+2)*4 > perFAT*g.sectorSize {
		return nil, bad("a FAT of %d sectors is too small for %d clusters", perFAT, clusters)
	}
	g.clusters = uint32(clusters)
	for i := range copies {
		g.fats = append(g.fats, (reserved+i*perFAT)*g.sectorSize)
	}
	g.dataStart = first * g.sectorSize
	g.end = total * g.sectorSize
	if !g.holds(g.rootCluster) {
		return nil, bad("the root directory starts at cluster %d of %d", g.rootCluster, g.clusters)
	}
	info, backup := int64(le16(b[48:])), int64(le16(b[50:]))
	if info != 0 && info != 0xffff {
		if info >= reserved {
			return nil, bad("the FSInfo sector is number %d of %d reserved ones", info, reserved)
		}
		g.infos = append(g.infos, info*g.sectorSize)
		if backup != 0 && backup != 0xffff && backup+info < reserved {
			g.infos = append(g.infos, (backup+info)*g.sectorSize)
		}
	}
	return g, nil
}

// holds says whether the file system has a data cluster of this number.
func (g *geometry) holds(cluster uint32) bool { return cluster >= 2 && cluster-2 < g.clusters }

// offset is where a cluster's bytes lie.
func (g *geometry) offset(cluster uint32) int64 {
	return g.dataStart + int64(cluster-2)*g.clusterSize
}

// clustersFor is how many clusters n bytes take.
func (g *geometry) clustersFor(n int64) int { return int((n + g.clusterSize - 1) / g.clusterSize) }

// otherFileSystem names what is no FAT32, and is empty for what looks like it.
func otherFileSystem(b []byte) string {
	le16, le32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	switch {
	case string(b[3:11]) == "EXFAT   ":
		return "exFAT"
	case string(b[3:11]) == "NTFS    ":
		return "NTFS"
	case len(b) > 1082 && le16(b[1080:]) == 0xef53:
		return "an ext2, ext3 or ext4 file system"
	case bytes.HasPrefix(b, []byte("hsqs")):
		return "a squashfs file system"
	case bytes.HasPrefix(b, []byte("LUKS\xba\xbe")):
		return "a LUKS-encrypted volume"
	case len(bytes.Trim(b, "\x00")) == 0:
		return "nothing but zeros"
	case le16(b[510:]) != 0xaa55:
		return "no file system that is known here (no boot signature)"
	case b[0] != 0xeb && b[0] != 0xe9:
		return "no file system that is known here (its boot sector does not begin with a jump)"
	}
	// As the kernel tells them apart: FAT12 and FAT16 give the size of their
	// FAT in 16 bits, and have a root directory of fixed size.
	perFAT16, rootEntries, perFAT32 := le16(b[22:]), le16(b[17:]), le32(b[36:])
	if perFAT16 == 0 && rootEntries == 0 && perFAT32 != 0 {
		return ""
	}
	sector, perCluster := int64(le16(b[11:])), int64(b[13])
	if perFAT16 == 0 || sector == 0 || perCluster == 0 {
		return "no file system that is known here (its boot sector describes none)"
	}
	total := int64(le16(b[19:]))
	if total == 0 {
		total = int64(le32(b[32:]))
	}
	data := total - int64(le16(b[14:])) - int64(b[16])*int64(perFAT16) - (int64(rootEntries)*32+sector-1)/sector
	if data/perCluster < 4085 {
		return "FAT12"
	}
	return "FAT16"
}

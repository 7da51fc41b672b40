// Package parttable reads and edits the MBR partition table of a Raspberry Pi
// OS image: partition 1 holds the boot files, partition 2 the root file
// system, and the disk id names both to the kernel (PARTUUID).
//
// A table is read through go-diskfs, but checked first, because what stands
// where an image should be may be a web page, an archive or a GPT disk, and
// the person who gave it deserves to hear which. Writing is our own: only the
// bytes that change are written, so that the boot code stays and a layer of
// changed blocks stays small.
package parttable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/diskfs/go-diskfs/partition/mbr"
)

// SectorSize is the unit of an MBR's numbers, in bytes, whatever the medium's
// own sectors are.
const SectorSize = 512

const (
	diskIDOffset  = 440
	entriesOffset = 446
	entrySize     = 16

	// maxSectors is where 32-bit sector numbers end. Raspberry Pi OS's own
	// first boot keeps a partition's end to the same bound.
	maxSectors = 1<<32 - 1
)

// A Partition is one of the four primary entries.
type Partition struct {
	Type     byte  // 0 is an unused entry; 0x0c FAT32, 0x83 Linux
	Bootable bool  // the active flag
	Start    int64 // in bytes from the image's start
	Size     int64 // in bytes
}

// End is the first byte behind the partition.
func (p Partition) End() int64 { return p.Start + p.Size }

// Used tells an entry that describes a partition from an empty one.
func (p Partition) Used() bool { return p.Type != 0 }

// A Table is an image's partition table. Change it through its methods, then
// Write it.
type Table struct {
	DiskID     uint32 // the disk signature at byte 440
	Partitions [4]Partition

	sector [SectorSize]byte // as on the image
}

// Read reads and checks the table of an image of the given size in bytes. It
// returns a *NoTableError for what is no partitioned image, a *GPTError for a
// GPT disk, and a *PartitionError for a table that no Raspberry Pi OS image
// has.
func Read(r io.ReaderAt, size int64) (*Table, error) {
	head, err := readHead(r, size)
	if err != nil {
		return nil, err
	}
	if err := recognise(head, r, size); err != nil {
		return nil, err
	}
	t := &Table{DiskID: binary.LittleEndian.Uint32(head[diskIDOffset:])}
	copy(t.sector[:], head)
	parsed, err := mbr.Read(sectorFile{head[:SectorSize]}, SectorSize, SectorSize)
	if err != nil {
		// Its one complaint left after recognise: an active flag that is
		// neither 0 nor 0x80.
		return nil, &NoTableError{Saw: "a boot sector whose partition entries make no sense", Remedy: remedyImage}
	}
	for i, p := range parsed.Partitions {
		if p.Type == 0 {
			continue
		}
		t.Partitions[i] = Partition{Type: byte(p.Type), Bootable: p.Bootable, Start: p.GetStart(), Size: p.GetSize()}
	}
	if err := t.check(size); err != nil {
		return nil, err
	}
	return t, nil
}

// PARTUUID is the name by which the kernel knows partition n (1–4), as in
// root=PARTUUID=….
func (t *Table) PARTUUID(n int) string { return fmt.Sprintf("%08x-%02x", t.DiskID, n) }

// SetDiskID gives the disk another id, and every partition another PARTUUID.
// Zero means "none" to other systems, which then write one of their own, so
// it is refused.
func (t *Table) SetDiskID(id uint32) error {
	if id == 0 {
		return errors.New("a disk id of 0 means that there is none")
	}
	t.DiskID = id
	return nil
}

// SetPartitionSize grows partition n (1–4) to size bytes, a multiple of 512.
// It returns a *PartitionError where the partition would run into the next
// one or past what an MBR can describe, and refuses to cut a partition short,
// because a file system lies in it.
func (t *Table) SetPartitionSize(n int, size int64) error {
	if n < 1 || n > len(t.Partitions) || !t.Partitions[n-1].Used() {
		return &PartitionError{Number: n, Kind: ErrMissing}
	}
	p := &t.Partitions[n-1]
	switch {
	case size%SectorSize != 0:
		return fmt.Errorf("cannot give partition %d a size of %d bytes: not a multiple of %d", n, size, SectorSize)
	case size < p.Size:
		return &PartitionError{Number: n, Kind: ErrShrink, Detail: fmt.Sprintf("from %d to %d bytes", p.Size, size)}
	case size > maxSectors*SectorSize-p.Start:
		return &PartitionError{Number: n, Kind: ErrTooLarge, Detail: fmt.Sprintf("%d bytes from byte %d on", size, p.Start)}
	}
	before := p.Size
	p.Size = size
	if err := t.checkOverlap(); err != nil {
		p.Size = before
		return err
	}
	return nil
}

// Write writes the bytes that differ from what Read found, and no others.
func (t *Table) Write(w io.WriterAt) error {
	if err := t.checkOverlap(); err != nil {
		return err
	}
	sector := t.sector
	binary.LittleEndian.PutUint32(sector[diskIDOffset:], t.DiskID)
	for i, p := range t.Partitions {
		if p.Used() {
			patchEntry(sector[entriesOffset+i*entrySize:][:entrySize], p)
		}
	}
	for at := 0; at < SectorSize; at++ {
		if sector[at] == t.sector[at] {
			continue
		}
		end := at + 1
		for end < SectorSize && sector[end] != t.sector[end] {
			end++
		}
		if _, err := w.WriteAt(sector[at:end], int64(at)); err != nil {
			return fmt.Errorf("cannot write the partition table: %w", err)
		}
		at = end
	}
	t.sector = sector
	return nil
}

// patchEntry brings an entry's numbers up to date where they differ.
func patchEntry(entry []byte, p Partition) {
	sectors := uint32(p.Size / SectorSize)
	if binary.LittleEndian.Uint32(entry[12:]) == sectors {
		return
	}
	binary.LittleEndian.PutUint32(entry[12:], sectors)
	// The end as cylinder, head and sector. Nobody who boots a Pi reads it,
	// but some partitioning tools warn where it contradicts the size.
	const heads, perTrack = 255, 63
	last := p.End()/SectorSize - 1
	entry[5], entry[6], entry[7] = 0xfe, 0xff, 0xff
	if cylinder := last / (heads * perTrack); cylinder < 1023 {
		entry[5] = byte(last / perTrack % heads)
		entry[6] = byte(last%perTrack+1) | byte(cylinder>>8)<<6
		entry[7] = byte(cylinder)
	}
}

// check holds the table against what a Raspberry Pi OS image must have.
func (t *Table) check(size int64) error {
	for i, p := range t.Partitions {
		n := i + 1
		switch {
		case !p.Used():
			if i < 2 {
				return &PartitionError{Number: n, Kind: ErrMissing}
			}
		case p.Type == 0x05 || p.Type == 0x0f || p.Type == 0x85:
			return &PartitionError{Number: n, Kind: ErrExtended, Detail: fmt.Sprintf("type %#02x", p.Type)}
		case p.Size == 0:
			return &PartitionError{Number: n, Kind: ErrEmpty}
		case p.Start == 0:
			return &PartitionError{Number: n, Kind: ErrOverlap, Detail: "it starts at the table's own sector"}
		case p.End() > size:
			return &PartitionError{Number: n, Kind: ErrPastEnd,
				Detail: fmt.Sprintf("it ends at byte %d, the image at %d", p.End(), size)}
		}
	}
	return t.checkOverlap()
}

func (t *Table) checkOverlap() error {
	for i, p := range t.Partitions {
		for j, q := range t.Partitions[:i] {
			if p.Used() && q.Used() && p.Start < q.End() && q.Start < p.End() {
				return &PartitionError{Number: i + 1, Kind: ErrOverlap,
					Detail: fmt.Sprintf("bytes %d–%d, partition %d has %d–%d", p.Start, p.End()-1, j+1, q.Start, q.End()-1)}
			}
		}
	}
	return nil
}

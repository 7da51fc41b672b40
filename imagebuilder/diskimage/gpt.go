package diskimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// mostGPTEntries is far more than the 128 that tables have.
const mostGPTEntries = 1024

// readGPT reads a GUID partition table, if there is one: at the second sector,
// or, where that is damaged, its copy at the image's end. It is go-diskfs that
// reads it.
func (im *Image) readGPT(head []byte) (found bool, err error) {
	protected := false
	if binary.LittleEndian.Uint16(head[510:]) == 0xaa55 {
		for i := range 4 {
			protected = protected || head[entriesOffset+i*entrySize+4] == 0xee
		}
	}
	sector := int64(0)
	for _, size := range []int64{512, 4096} {
		if string(head[size:size+8]) == "EFI PART" {
			sector = size
			break
		}
	}
	if sector == 0 {
		if !protected {
			return false, nil
		}
		sector = sectorSize
	}
	im.table = Table{Kind: GPT, SectorSize: sector}
	table, err := im.parseGPT(sector)
	var read *readError
	if errors.As(err, &read) {
		return true, read.err
	}
	if err != nil {
		im.table.Problem = err.Error()
		return true, nil
	}
	im.table.DiskID = table.GUID
	switch {
	case table.RecoveredFromBackup:
		im.table.Problem = "the partition table at the beginning is damaged; this is its copy from the image's end"
	case !protected:
		im.table.Problem = "no protective MBR: other systems take the disk for an empty one"
	}
	for _, p := range table.Partitions {
		last := uint64(1<<63-1)/uint64(sector) - 1
		if p.Start > p.End || p.End > last {
			im.table.Problem = fmt.Sprintf("partition %d: from sector %d to sector %d", p.Index, p.Start, p.End)
			continue
		}
		im.add(Partition{
			Number: p.Index, Type: string(p.Type), TypeName: gptTypes[p.Type],
			Label: p.Name, UUID: strings.ToLower(p.GUID),
			Start: int64(p.Start) * sector, Size: int64(p.End-p.Start+1) * sector,
		})
	}
	im.checkOverlap()
	return true, nil
}

// parseGPT has go-diskfs read the table, and keeps it from what it does not
// look out for: headers that claim gigabytes of entries, or entries of another
// size.
func (im *Image) parseGPT(sector int64) (table *gpt.Table, err error) {
	header := make([]byte, 92)
	for _, at := range []int64{sector, (im.size/sector - 1) * sector} {
		if at < sector {
			continue
		}
		if err := readAt(im.r, header, at); err != nil {
			return nil, &readError{err}
		}
		if string(header[:8]) != "EFI PART" {
			continue
		}
		first := binary.LittleEndian.Uint64(header[72:])
		count, size := binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
		if size != gpt.PartitionEntrySize {
			return nil, fmt.Errorf("the GUID partition table has entries of %d bytes, which is not supported", size)
		}
		if count > mostGPTEntries || first > uint64(im.size/sector) {
			return nil, fmt.Errorf("the GUID partition table claims %d entries at sector %d", count, first)
		}
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the GUID partition table is damaged: %v", p)
		}
	}()
	f := &tableFile{io.NewSectionReader(im.r, 0, im.size), nil}
	table, err = gpt.Read(f, int(sector), int(sector))
	switch {
	case f.err != nil:
		return nil, &readError{f.err}
	case err != nil:
		return nil, fmt.Errorf("the GUID partition table is damaged: %w", err)
	}
	return table, nil
}

// A readError is the device's, not the table's.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// tableFile shows go-diskfs the image, and remembers what failed to be read.
type tableFile struct {
	*io.SectionReader
	err error
}

func (f *tableFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.SectionReader.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) && off >= 0 {
		f.err = err
	}
	return n, err
}
func (f *tableFile) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
func (f *tableFile) Close() error               { return nil }

// gptTypes are names of the types that one meets on the media of single-board
// computers, as fdisk has them.
var gptTypes = map[gpt.Type]string{
	gpt.EFISystemPartition: "EFI System", gpt.MicrosoftBasicData: "Microsoft basic data", gpt.MicrosoftReserved: "Microsoft reserved",
	gpt.LinuxFilesystem: "Linux filesystem", gpt.LinuxSwap: "Linux swap", gpt.LinuxHome: "Linux home", gpt.LinuxServerData: "Linux server data",
	gpt.LinuxRAID: "Linux RAID", gpt.LinuxLVM: "Linux LVM", gpt.LinuxRootArm: "Linux root (ARM)", gpt.LinuxRootArm64: "Linux root (ARM-64)",
	gpt.LinuxRootX86: "Linux root (x86)", gpt.LinuxRootX86_64: "Linux root (x86-64)", gpt.LinuxExtendedBoot: "Linux extended boot",
	gpt.LinuxReserved: "Linux reserved", gpt.BIOSBoot: "BIOS boot", gpt.LinuxLUKS: "Linux LUKS",
}

// Package diskimage opens a disk image like a folder: its partitions, and the
// files in them, without mounting anything and without root.
//
// Any image is taken: partitioned by an MBR (logical partitions too) or a GPT,
// or a bare file system without a table. What is not known is reported, not
// refused: an image with a strange partition still shows the others. ext2,
// ext3, ext4 and FAT are read; other file systems are recognised by name.
//
// An image is foreign: it may be damaged, or made to do harm. Nothing in it
// leads out of it, and what it claims is bounded by what it has.
package diskimage

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// An Image is an opened disk image. It is for one goroutine at a time, and so
// are the trees that it gives.
type Image struct {
	r          io.ReaderAt
	size       int64
	table      Table
	partitions []Partition
	volumes    map[int]volume // by partition number

	assembled bool
	root      *tree
	rootErr   error
	mounts    []Mount
	release   *Release
}

// The kinds of a Table.
const (
	NoTable = "" // the image is one file system, or nothing that is known
	MBR     = "mbr"
	GPT     = "gpt"
)

// A Table is what the image is partitioned by.
type Table struct {
	Kind string // NoTable, MBR or GPT
	// DiskID names the disk: 8 hexadecimal digits of an MBR, the GUID of a GPT.
	DiskID     string
	SectorSize int64  // bytes; 0 without a table
	Problem    string // what is wrong with it
}

// A Partition is a part of the image, and what lies in it.
type Partition struct {
	// Number is the kernel's: the place in the table, 5 and up for logical
	// partitions; 0 is the whole image, where there is no table.
	Number   int
	Type     string // two hexadecimal digits of an MBR, the GUID of a GPT
	TypeName string // "W95 FAT32 (LBA)"; "" where it is not known
	Label    string // of a GPT's entry
	UUID     string // by which the kernel knows the partition: PARTUUID
	Bootable bool   // an MBR's active flag
	Start    int64  // bytes from the image's beginning
	Size     int64  // bytes

	// FileSystem is what was recognised: "ext4", "ext3", "ext2", "vfat",
	// "squashfs", "swap", …; "" for nothing known.
	FileSystem string
	FSLabel    string
	FSUUID     string
	Features   []string // of ext4, as tune2fs names them; of FAT, "FAT12" to "FAT32"
	Readable   bool     // Partition(Number) gives its files
	Used, Free int64    // bytes; both 0 where not known
	Problem    string   // what is wrong with it, or why it cannot be read
}

// Errors of Open, Tree and Partition.
var (
	// ErrEmpty says that there are no bytes that could be an image.
	ErrEmpty = errors.New("it is empty")
	// ErrNoRoot says that no partition holds the root of an operating system.
	ErrNoRoot = errors.New("no partition holds the files of an operating system")
	// ErrNoPartition says that there is no partition of that number.
	ErrNoPartition = errors.New("there is no such partition")
	// ErrUnreadable says that a partition's files cannot be read.
	ErrUnreadable = errors.New("its files cannot be read")
)

// Open opens an image of size bytes. An error is the reader's, or ErrEmpty;
// what is strange about the image is told by Table and Partitions.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	if size <= 0 {
		return nil, ErrEmpty
	}
	im := &Image{r: r, size: size, volumes: map[int]volume{}}
	if err := im.readTable(); err != nil {
		return nil, fmt.Errorf("cannot read the partition table: %w", err)
	}
	for i := range im.partitions {
		if err := im.probe(&im.partitions[i]); err != nil {
			return nil, fmt.Errorf("cannot read partition %d: %w", im.partitions[i].Number, err)
		}
	}
	return im, nil
}

// Size is the image's length in bytes.
func (im *Image) Size() int64 { return im.size }

// Table says what the image is partitioned by.
func (im *Image) Table() Table { return im.table }

// Partitions lists the partitions by number. An image without a table has one,
// number 0: itself.
func (im *Image) Partitions() []Partition { return slices.Clone(im.partitions) }

// Partition gives the files of one partition. The error is ErrNoPartition or
// ErrUnreadable.
func (im *Image) Partition(n int) (Tree, error) {
	for _, p := range im.partitions {
		if p.Number != n {
			continue
		}
		if v := im.volumes[n]; v != nil {
			return newTree(v, n), nil
		}
		why := p.Problem
		if why == "" {
			why = "it holds " + p.content()
		}
		return nil, fmt.Errorf("partition %d: %w: %s", n, ErrUnreadable, why)
	}
	return nil, fmt.Errorf("partition %d: %w", n, ErrNoPartition)
}

// content says what lies in a partition.
func (p *Partition) content() string {
	if p.FileSystem == "" {
		return "no file system that is known here"
	}
	return p.FileSystem
}

// Package rootdisk finds the root file system on the disk that comes over the
// link: its partition table, and what root= of the command line means on it.
package rootdisk

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

const (
	sector = 512
	// maxLogical bounds the chain of logical partitions.
	maxLogical = 60
)

// A Partition is one of the table's. Number 0 is the bare disk.
type Partition struct {
	Number       int
	Type         byte
	Start, Size  int64 // bytes
	FS           string
	BlockSize    int // the file system's, 0 where it is unknown
	Label, UUID  string
	NeedsJournal bool // its journal is to be played back: it was not unmounted
	Faulty       bool // the kernel found faults in it
}

// A Disk is what there is on it.
type Disk struct {
	Signature   uint32 // of the table; 0 without one
	Partitioned bool
	Partitions  []Partition
}

// Read reads the partition table and what the partitions hold.
func Read(r io.ReaderAt, size int64) (Disk, error) {
	var d Disk
	first := make([]byte, sector)
	if _, err := r.ReadAt(first, 0); err != nil {
		return d, fmt.Errorf("cannot read the disk's first sector: %w", err)
	}
	if whole, err := inspect(r, Partition{Size: size}); err != nil {
		return d, err
	} else if whole.FS != "" {
		d.Partitions = []Partition{whole}
		return d, nil
	}
	if first[510] != 0x55 || first[511] != 0xaa {
		return d, errors.New("the disk has no partition table, and no ext4 file system either: is it an image of Raspberry Pi OS?")
	}
	d.Partitioned = true
	d.Signature = binary.LittleEndian.Uint32(first[440:])
	if err := d.table(r, size, first); err != nil {
		return d, err
	}
	for i, p := range d.Partitions {
		var err error
		if d.Partitions[i], err = inspect(r, p); err != nil {
			return d, err
		}
	}
	return d, nil
}

// entry reads one of a table's four entries, in sectors.
func entry(table []byte, i int) (kind byte, start, size int64) {
	e := table[446+16*i:]
	return e[4], int64(binary.LittleEndian.Uint32(e[8:])), int64(binary.LittleEndian.Uint32(e[12:]))
}

func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

func (d *Disk) table(r io.ReaderAt, size int64, first []byte) error {
	extended := int64(0)
	for i := range 4 {
		kind, start, length := entry(first, i)
		switch {
		case kind == 0xee:
			return errors.New("the disk has a GPT: only tables of the MBR kind are read here")
		case kind == 0 || start == 0 || length == 0:
		case isExtended(kind):
			extended = start
		default:
			d.add(i+1, kind, start, length, size)
		}
	}
	next := extended
	for n := 5; next != 0 && n < 5+maxLogical; n++ {
		table := make([]byte, sector)
		if next*sector+sector > size {
			return nil
		}
		if _, err := r.ReadAt(table, next*sector); err != nil {
			return fmt.Errorf("cannot read the table of partition %d: %w", n, err)
		}
		if table[510] != 0x55 || table[511] != 0xaa {
			return nil
		}
		kind, start, length := entry(table, 0)
		if kind != 0 && length != 0 {
			d.add(n, kind, next+start, length, size)
		}
		kind, start, _ = entry(table, 1)
		if !isExtended(kind) || start == 0 {
			return nil
		}
		next = extended + start
	}
	return nil
}

func (d *Disk) add(number int, kind byte, start, length, size int64) {
	if start*sector >= size {
		return // the kernel leaves it out too
	}
	d.Partitions = append(d.Partitions, Partition{
		Number: number, Type: kind, Start: start * sector, Size: min(length*sector, size-start*sector),
	})
}

// inspect reads what a partition holds: ext2, 3, 4 by their superblock.
// Source: the kernel's Documentation/filesystems/ext4/super.rst.
func inspect(r io.ReaderAt, p Partition) (Partition, error) {
	const offset, magic = 1024, 0xef53
	if p.Size < offset+1024 {
		return p, nil
	}
	s := make([]byte, 1024)
	if _, err := r.ReadAt(s, p.Start+offset); err != nil {
		return p, fmt.Errorf("cannot read partition %d: %w", p.Number, err)
	}
	shift := binary.LittleEndian.Uint32(s[24:])
	if binary.LittleEndian.Uint16(s[56:]) != magic || shift > 6 {
		return p, nil
	}
	p.FS = "ext2"
	if binary.LittleEndian.Uint32(s[92:])&0x4 != 0 { // has_journal
		p.FS = "ext3"
	}
	if binary.LittleEndian.Uint32(s[96:])&(0x40|0x80|0x200) != 0 { // extents, 64bit, flex_bg
		p.FS = "ext4"
	}
	p.BlockSize = 1024 << shift
	p.NeedsJournal = binary.LittleEndian.Uint32(s[96:])&0x4 != 0 // recover
	p.Faulty = binary.LittleEndian.Uint16(s[58:])&0x2 != 0
	label, _, _ := bytes.Cut(s[120:136], []byte{0})
	p.Label = string(label)
	u := hex.EncodeToString(s[104:120])
	p.UUID = u[:8] + "-" + u[8:12] + "-" + u[12:16] + "-" + u[16:20] + "-" + u[20:]
	return p, nil
}

// UUID gives the UUID of the file system that begins at an offset, "" where
// there is none.
func UUID(r io.ReaderAt, offset int64) (string, error) {
	p, err := inspect(r, Partition{Start: offset, Size: 1 << 20})
	return p.UUID, err
}

// ErrNotFound: root= is not on this disk.
var ErrNotFound = errors.New("the root file system is not on this disk")

// Find gives the partition that root= means: PARTUUID=, UUID=, LABEL=, or the
// name of a card's, a disk's or this device's partition, by its number.
func (d Disk) Find(root string) (Partition, error) {
	key, value, ok := strings.Cut(root, "=")
	if !ok {
		number, err := deviceNumber(root)
		if err != nil {
			return Partition{}, err
		}
		return d.find(root, func(p Partition) bool { return p.Number == number })
	}
	value = strings.Trim(value, `"`)
	switch key {
	case "PARTUUID":
		return d.find(root, func(p Partition) bool { return d.Partitioned && strings.EqualFold(d.PartUUID(p.Number), value) })
	case "UUID":
		return d.find(root, func(p Partition) bool { return p.FS != "" && strings.EqualFold(p.UUID, value) })
	case "LABEL":
		return d.find(root, func(p Partition) bool { return p.FS != "" && p.Label == value })
	}
	return Partition{}, fmt.Errorf("root=%s is of no known kind: it is PARTUUID=, UUID=, LABEL= or a device as /dev/mmcblk0p2", root)
}

func (d Disk) find(root string, fits func(Partition) bool) (Partition, error) {
	found := slices.IndexFunc(d.Partitions, fits)
	if found < 0 {
		return Partition{}, fmt.Errorf("%w: root=%s, and it has %s: correct root= in cmdline.txt, or give the slot the image that belongs to it", ErrNotFound, root, d)
	}
	return d.Partitions[found], nil
}

// PartUUID is a partition's name in a table of the MBR kind: "1a2b3c4d-02".
func (d Disk) PartUUID(number int) string { return fmt.Sprintf("%08x-%02x", d.Signature, number) }

// deviceNumber reads the number of a partition's device: "/dev/mmcblk0p2", 2.
func deviceNumber(root string) (int, error) {
	wrong := fmt.Errorf("root=%s names no partition of a disk: it is PARTUUID=, UUID=, LABEL= or a device as /dev/mmcblk0p2", root)
	name, ok := strings.CutPrefix(root, "/dev/")
	if !ok {
		return 0, wrong
	}
	for _, kind := range []string{"nbd", "mmcblk"} {
		rest, ok := strings.CutPrefix(name, kind)
		if !ok {
			continue
		}
		_, number, ok := strings.Cut(rest, "p")
		if !ok {
			if kind == "nbd" && rest == "0" {
				return 0, nil // the bare disk
			}
			return 0, wrong
		}
		return positive(number, wrong)
	}
	for _, kind := range []string{"sd", "vd"} {
		if rest, ok := strings.CutPrefix(name, kind); ok && len(rest) > 1 && rest[0] >= 'a' && rest[0] <= 'z' {
			return positive(rest[1:], wrong)
		}
	}
	return 0, wrong
}

func positive(text string, wrong error) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 127 {
		return 0, wrong
	}
	return n, nil
}

// Node is the device of a partition of nbd0.
func (p Partition) Node() string {
	if p.Number == 0 {
		return "nbd0"
	}
	return "nbd0p" + strconv.Itoa(p.Number)
}

// String is what there is, in a line.
func (d Disk) String() string {
	if !d.Partitioned {
		if len(d.Partitions) == 1 {
			return "no partitions, but " + d.Partitions[0].String()
		}
		return "no partitions"
	}
	var all []string
	for _, p := range d.Partitions {
		all = append(all, fmt.Sprintf("PARTUUID=%s (%s)", d.PartUUID(p.Number), p))
	}
	if all == nil {
		return "no partitions"
	}
	return strings.Join(all, ", ")
}

// String is what a partition holds.
func (p Partition) String() string {
	s := fmt.Sprintf("%d MiB", p.Size>>20)
	if p.FS == "" {
		return fmt.Sprintf("%s, type %02x", s, p.Type)
	}
	s += ", " + p.FS
	if p.Label != "" {
		s += fmt.Sprintf(" %q", p.Label)
	}
	return s
}

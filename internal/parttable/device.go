package parttable

import "io"

// Raspberry Pi OS's partitions, as numbers of the table's entries from 1.
const (
	Boot = 1
	Root = 2
)

// Partition gives the entry with a number from 1.
func (t *Table) Partition(number int) Partition { return t.Partitions[number-1] }

// Reader gives the partition of a disk for reading: offset 0 is its start.
func (p Partition) Reader(disk io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(disk, p.Start, p.Size)
}

// A Device is a partition as a device of its own: offset 0 is its start.
type Device struct {
	io.ReaderAt
	io.WriterAt
}

// Device gives the partition of a disk for reading and writing.
func (p Partition) Device(disk interface {
	io.ReaderAt
	io.WriterAt
}) Device {
	return Device{p.Reader(disk), io.NewOffsetWriter(disk, p.Start)}
}

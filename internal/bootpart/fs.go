package bootpart

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Device is what the image lies on.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// FS is the FAT32 file system of a boot partition. It is not safe for use by
// several goroutines at once.
type FS struct {
	dev   Device
	start int64 // of the partition on the device
	geo   *geometry
	fat   *table
	root  *node
	label string
	stamp time.Time
	slots int  // read so far, while opening
	dirty bool // something is to be flushed
}

// Open reads and checks the file system in the partition of size bytes at
// offset. It returns a *NotFAT32Error for anything else that lies there, and
// a *CorruptError, *UnsupportedError or ErrNotClean for a FAT32 that must not
// be edited. The device is not written before Flush.
func Open(dev Device, offset, size int64) (*FS, error) {
	if offset < 0 || size < bootSectorSize {
		return nil, &NotFAT32Error{Found: fmt.Sprintf("a partition of %d bytes", max(size, 0))}
	}
	f := &FS{dev: dev, start: offset}
	head := make([]byte, min(size, 4096))
	if err := f.read(head, 0); err != nil {
		return nil, fmt.Errorf("cannot read the boot sector: %w", err)
	}
	geo, err := parseGeometry(head, size)
	if err != nil {
		return nil, err
	}
	f.geo = geo
	if err := f.readFAT(); err != nil {
		return nil, err
	}
	if err := f.checkInfos(); err != nil {
		return nil, err
	}
	if err := f.readTree(); err != nil {
		return nil, err
	}
	return f, nil
}

// OpenReadOnly is Open for a source that cannot be written; Flush then fails
// where there is something to write.
func OpenReadOnly(r io.ReaderAt, offset, size int64) (*FS, error) {
	return Open(readOnly{r}, offset, size)
}

type readOnly struct{ io.ReaderAt }

func (readOnly) WriteAt([]byte, int64) (int, error) {
	return 0, errors.New("the boot partition was opened for reading only")
}

// SetTime sets the time that files and directories get from now on, in UTC
// and as far as FAT can say it: 1980 to 2107, in steps of two seconds.
// Without it, everything is of 1980-01-01.
func (f *FS) SetTime(t time.Time) { f.stamp = t }

// Label is the volume's name, "bootfs" on Raspberry Pi OS.
func (f *FS) Label() string { return f.label }

// VolumeID is the volume's serial number.
func (f *FS) VolumeID() uint32 { return f.geo.volumeID }

// Usage says how large the file system is and what of it is free.
type Usage struct {
	ClusterSize            int64 // bytes
	Clusters, FreeClusters int
}

// Usage counts what is in use, changes not yet flushed included.
func (f *FS) Usage() Usage {
	return Usage{ClusterSize: f.geo.clusterSize, Clusters: int(f.geo.clusters), FreeClusters: f.fat.free}
}

// Flush writes every change since Open or the last Flush. Only 512-byte
// sectors whose content differs from the device's are written. Where the
// device fails half-way, the partition is left in between: it then belongs to
// be thrown away, as the layer it lies on is.
func (f *FS) Flush() error {
	if !f.dirty {
		return nil
	}
	if err := f.flushFiles(f.root); err != nil {
		return err
	}
	for _, at := range f.geo.fats {
		for block, changed := range f.fat.dirty {
			if !changed {
				continue
			}
			off := block * tableBlock
			if err := f.writeChanged(at+int64(off), f.fat.raw[off:off+tableBlock]); err != nil {
				return err
			}
		}
	}
	if err := f.writeInfos(); err != nil {
		return err
	}
	clear(f.fat.dirty)
	f.dirty = false
	return nil
}

// Close flushes. The FS is not to be used afterwards.
func (f *FS) Close() error { return f.Flush() }

// flushFiles writes the contents in and below a directory, then its slots, so
// that an entry never stands before what it names.
func (f *FS) flushFiles(d *node) error {
	for _, n := range d.children {
		switch {
		case n.isDir():
			if err := f.flushFiles(n); err != nil {
				return err
			}
		case n.pending != nil:
			// Up to the end of the last cluster, so that no stale bytes stay
			// behind the file's end.
			clusters := f.fat.chain(n.cluster)
			whole := make([]byte, int64(len(clusters))*f.geo.clusterSize)
			copy(whole, n.pending)
			if err := f.writeClusters(clusters, whole); err != nil {
				return err
			}
			n.pending = nil
		}
	}
	if d.changed {
		if err := f.writeClusters(d.clusters, d.raw); err != nil {
			return err
		}
		d.changed = false
	}
	return nil
}

// read fills b from the partition.
func (f *FS) read(b []byte, off int64) error {
	n, err := f.dev.ReadAt(b, f.start+off)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeChanged writes those sectors of b that differ from the device's.
func (f *FS) writeChanged(off int64, b []byte) error {
	const chunk = 1 << 20
	if off < 0 || off+int64(len(b)) > f.geo.end {
		return corrupt("FAT", "a change at byte %d would lie outside the partition", off)
	}
	there := make([]byte, min(len(b), chunk))
	for len(b) > 0 {
		part := b[:min(len(b), chunk)]
		there = there[:len(part)]
		if err := f.read(there, off); err != nil {
			return fmt.Errorf("cannot read the boot partition at byte %d: %w", off, err)
		}
		for at := 0; at < len(part); {
			end := min(at+bootSectorSize, len(part))
			if bytes.Equal(part[at:end], there[at:end]) {
				at = end
				continue
			}
			for end < len(part) {
				next := min(end+bootSectorSize, len(part))
				if bytes.Equal(part[end:next], there[end:next]) {
					break
				}
				end = next
			}
			if _, err := f.dev.WriteAt(part[at:end], f.start+off+int64(at)); err != nil {
				return fmt.Errorf("cannot write the boot partition at byte %d: %w", off+int64(at), err)
			}
			at = end
		}
		off, b = off+int64(len(part)), b[len(part):]
	}
	return nil
}

// eachRun calls fn for every stretch of consecutive clusters, with the bytes
// of b that belong to it.
func (f *FS) eachRun(clusters []uint32, b []byte, fn func(off int64, part []byte) error) error {
	for len(clusters) > 0 && len(b) > 0 {
		n := 1
		for n < len(clusters) && clusters[n] == clusters[n-1]+1 {
			n++
		}
		part := b[:min(int64(len(b)), int64(n)*f.geo.clusterSize)]
		if err := fn(f.geo.offset(clusters[0]), part); err != nil {
			return err
		}
		clusters, b = clusters[n:], b[len(part):]
	}
	return nil
}

func (f *FS) readClusters(clusters []uint32, b []byte) error {
	return f.eachRun(clusters, b, func(off int64, part []byte) error { return f.read(part, off) })
}

func (f *FS) writeClusters(clusters []uint32, b []byte) error {
	return f.eachRun(clusters, b, f.writeChanged)
}

// readFAT loads the FAT, and sees that its copies agree and that the file
// system was unmounted.
func (f *FS) readFAT() error {
	// In whole sectors, of which the FAT has enough.
	entries := (int64(f.geo.clusters) + 2) * 4
	raw := make([]byte, (entries+tableBlock-1)/tableBlock*tableBlock)
	if err := f.read(raw, f.geo.fats[0]); err != nil {
		return fmt.Errorf("cannot read the FAT: %w", err)
	}
	const chunk = 256 << 10
	buf := make([]byte, min(len(raw), chunk))
	for _, at := range f.geo.fats[1:] {
		for off := 0; off < len(raw); off += len(buf) {
			part := buf[:min(len(buf), len(raw)-off)]
			if err := f.read(part, at+int64(off)); err != nil {
				return fmt.Errorf("cannot read the FAT's copy: %w", err)
			}
			if !bytes.Equal(part, raw[off:off+len(part)]) {
				return corrupt("FAT", "its two copies differ")
			}
		}
	}
	// Bits of the second entry are cleared while the file system is in use,
	// and when a disk error was met.
	if le32 := binary.LittleEndian.Uint32(raw[4:]); le32&0x0c000000 != 0x0c000000 {
		return ErrNotClean
	}
	f.fat = newTable(raw, f.geo.clusters)
	return nil
}

const (
	infoLead, infoMiddle, infoTail = 0x41615252, 0x61417272, 0xaa550000
	infoFree, infoNext             = 488, 492
)

func isInfo(b []byte) bool {
	le32 := binary.LittleEndian.Uint32
	return le32(b) == infoLead && le32(b[484:]) == infoMiddle && le32(b[508:]) == infoTail
}

// checkInfos sees that the FSInfo sector is one; a backup that is none is
// left alone from then on, because not every mkfs writes it.
func (f *FS) checkInfos() error {
	b := make([]byte, bootSectorSize)
	kept := f.geo.infos[:0]
	for i, at := range f.geo.infos {
		if err := f.read(b, at); err != nil {
			return fmt.Errorf("cannot read the FSInfo sector: %w", err)
		}
		switch {
		case isInfo(b):
			kept = append(kept, at)
		case i == 0:
			return corrupt("FSInfo sector", "its signatures are wrong")
		}
	}
	f.geo.infos = kept
	return nil
}

// writeInfos brings the free count, and the hint where to look for free
// clusters, up to date.
func (f *FS) writeInfos() error {
	b := make([]byte, bootSectorSize)
	for _, at := range f.geo.infos {
		if err := f.read(b, at); err != nil {
			return fmt.Errorf("cannot read the FSInfo sector: %w", err)
		}
		binary.LittleEndian.PutUint32(b[infoFree:], uint32(f.fat.free))
		hint := uint32(0xffffffff) // unknown
		if c := f.fat.firstFree(max(f.fat.last, f.fat.lowest)); c != 0 {
			hint = c
		}
		binary.LittleEndian.PutUint32(b[infoNext:], hint)
		if err := f.writeChanged(at, b); err != nil {
			return err
		}
	}
	return nil
}

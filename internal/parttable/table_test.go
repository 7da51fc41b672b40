package parttable_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/parttable"
	"hatchery/internal/testtool"
)

const mib = 1 << 20

// entry is one partition of a made-up table, in sectors.
type entry struct {
	kind        byte
	start, size uint32
}

// An image like Raspberry Pi OS's, scaled down: boot at sector 8192, root
// behind it.
var (
	boot = entry{0x0c, 8192, 8192}
	root = entry{0x83, 16384, 16384}
)

const imageSize = 16 * mib

// image makes the first sectors of an image: boot code, disk id, entries.
func image(entries ...entry) []byte {
	b := make([]byte, 64<<10)
	for i := range 440 {
		b[i] = byte(i*7 + 1)
	}
	binary.LittleEndian.PutUint32(b[440:], 0x1a2b3c4d)
	for i, e := range entries {
		p := b[446+16*i:]
		p[1], p[2], p[3] = 0x10, 0x20, 0x30
		p[4] = e.kind
		p[5], p[6], p[7] = 0x40, 0x50, 0x60
		binary.LittleEndian.PutUint32(p[8:], e.start)
		binary.LittleEndian.PutUint32(p[12:], e.size)
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

func with(b []byte, offset int, data string) []byte {
	copy(b[offset:], data)
	return b
}

func TestRead(t *testing.T) {
	table, err := parttable.Read(bytes.NewReader(image(boot, root)), imageSize)
	if err != nil {
		t.Fatal(err)
	}
	want := [4]parttable.Partition{
		{Type: 0x0c, Start: 4 * mib, Size: 4 * mib},
		{Type: 0x83, Start: 8 * mib, Size: 8 * mib},
	}
	if table.Partitions != want {
		t.Errorf("partitions %+v, want %+v", table.Partitions, want)
	}
	if table.DiskID != 0x1a2b3c4d || table.PARTUUID(2) != "1a2b3c4d-02" {
		t.Errorf("disk id %08x, partition 2 is %s", table.DiskID, table.PARTUUID(2))
	}
}

func TestReadRefuses(t *testing.T) {
	gzip, xz, html := []byte("\x1f\x8b\x08\x00"), []byte("\xfd7zXZ\x00\x00\x04"), []byte("\xef\xbb\xbf\n <!DOCTYPE HTML>\n<html>")
	noBoot := image(boot, root)
	noBoot[511] = 0
	badFlag := image(boot, root)
	badFlag[446] = 0x42
	for _, tt := range []struct {
		summary string
		image   []byte
		size    int64
		is      error // where a *PartitionError or *NoTableError
		says    string
	}{
		{"nothing", nil, 0, parttable.ErrNoTable, "an empty file"},
		{"a few bytes", []byte("abc"), 3, parttable.ErrNoTable, "3 bytes"},
		{"gzip", append(gzip, make([]byte, 9000)...), 9004, parttable.ErrNoTable, "gzip"},
		{"xz", append(xz, make([]byte, 9000)...), 9008, parttable.ErrNoTable, "xz"},
		{"zstd", with(image(boot, root), 0, "\x28\xb5\x2f\xfd"), imageSize, parttable.ErrNoTable, "zstd"},
		{"zip", with(image(boot, root), 0, "PK\x03\x04"), imageSize, parttable.ErrNoTable, "zip"},
		{"a web page", append(html, bytes.Repeat([]byte("<p>x</p>"), 999)...), 8000, parttable.ErrNoTable, "HTML"},
		{"text", bytes.Repeat([]byte("404 not found, naïf\n"), 999), 19000, parttable.ErrNoTable, "a text file"},
		{"zeros", make([]byte, 9000), 9000, parttable.ErrNoTable, "zeros"},
		{"noise", noBoot, imageSize, parttable.ErrNoTable, "no boot signature"},
		{"active flag of 0x42", badFlag, imageSize, parttable.ErrNoTable, "make no sense"},
		{"bare FAT", with(image(), 82, "FAT32   "), imageSize, parttable.ErrNoTable, "FAT32 file system without"},
		{"bare NTFS", with(image(), 3, "NTFS    "), imageSize, parttable.ErrNoTable, "NTFS"},
		{"bare ext4", with(make([]byte, 64<<10), 1080, "\x53\xef"), 64 << 10, parttable.ErrNoTable, "ext4"},
		{"an ISO", with(make([]byte, 64<<10), 32769, "CD001"), 64 << 10, parttable.ErrNoTable, "ISO 9660"},
		{"protective entry", image(entry{0xee, 1, 16383}), imageSize, nil, "type 0xee"},
		{"hybrid", image(boot, root, entry{0xee, 1, 1}), imageSize, nil, "partition 3 protects it"},
		{"GPT header", with(image(boot, root), 512, "EFI PART"), imageSize, nil, "GPT header at byte 512"},
		{"GPT header, 4096 a sector", with(image(boot, root), 4096, "EFI PART"), imageSize, nil, "GPT header at byte 4096"},
		{"no entries", image(), imageSize, parttable.ErrMissing, "partition 1 is missing"},
		{"no second partition", image(boot), imageSize, parttable.ErrMissing, "partition 2 is missing"},
		{"zero-sized", image(boot, entry{0x83, 16384, 0}), imageSize, parttable.ErrEmpty, "partition 2 has no sectors"},
		{"at the table", image(entry{0x0c, 0, 100}, root), imageSize, parttable.ErrOverlap, "partition 1 overlaps"},
		{"overlap", image(boot, entry{0x83, 16383, 100}), imageSize, parttable.ErrOverlap, "partition 2 overlaps"},
		{"one inside another", image(boot, root, entry{0x83, 16385, 1}), imageSize, parttable.ErrOverlap, "partition 3 overlaps"},
		{"past the end", image(boot, root), imageSize - 512, parttable.ErrPastEnd, "cut short"},
		{"far past the end", image(boot, entry{0x83, 1<<32 - 1, 1<<32 - 1}), imageSize, parttable.ErrPastEnd, "partition 2"},
		{"extended", image(boot, root, entry{0x05, 32768, 10}), imageSize + mib, parttable.ErrExtended, "0x05"},
		{"extended, LBA", image(boot, entry{0x0f, 16384, 10}), imageSize, parttable.ErrExtended, "0x0f"},
		{"Linux extended", image(boot, entry{0x85, 16384, 10}), imageSize, parttable.ErrExtended, "0x85"},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			table, err := parttable.Read(bytes.NewReader(tt.image), tt.size)
			if err == nil {
				t.Fatalf("read as %+v", table)
			}
			var gpt *parttable.GPTError
			if tt.is == nil && !errors.As(err, &gpt) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %T: %v", err, err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error does not say %q: %v", tt.says, err)
			}
		})
	}
}

func TestReadCutShort(t *testing.T) {
	_, err := parttable.Read(bytes.NewReader(image(boot, root)[:600]), imageSize)
	if err == nil || errors.Is(err, parttable.ErrNoTable) {
		t.Errorf("error %v, want a reading error", err)
	}
}

// recorder keeps what was written, and where.
type recorder struct {
	image  []byte
	writes map[int64]int
}

func (r *recorder) WriteAt(b []byte, off int64) (int, error) {
	if r.writes == nil {
		r.writes = map[int64]int{}
	}
	r.writes[off] += len(b)
	return copy(r.image[off:], b), nil
}

func TestWriteTouchesOnlyWhatChanged(t *testing.T) {
	before := image(boot, root)
	out := &recorder{image: bytes.Clone(before)}
	table, err := parttable.Read(bytes.NewReader(before), imageSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Write(out); err != nil || len(out.writes) != 0 {
		t.Fatalf("nothing changed, and %v was written (%v)", out.writes, err)
	}

	if err := table.SetDiskID(0xdeadbeef); err != nil {
		t.Fatal(err)
	}
	if err := table.SetPartitionSize(2, 12*mib); err != nil {
		t.Fatal(err)
	}
	if err := table.Write(out); err != nil {
		t.Fatal(err)
	}
	for i := range before {
		id, ends, size := i >= 440 && i < 444, i >= 446+16+5 && i < 446+16+8, i >= 446+16+12 && i < 446+32
		if before[i] != out.image[i] && !id && !ends && !size {
			t.Errorf("byte %d changed from %#x to %#x", i, before[i], out.image[i])
		}
	}
	total := 0
	for _, n := range out.writes {
		total += n
	}
	if total > 4+3+4 {
		t.Errorf("%d bytes written: %v", total, out.writes)
	}

	again, err := parttable.Read(bytes.NewReader(out.image), 20*mib)
	if err != nil {
		t.Fatal(err)
	}
	if again.DiskID != 0xdeadbeef || again.Partitions[1].Size != 12*mib || again.Partitions[0] != table.Partitions[0] {
		t.Errorf("read back %+v", again)
	}
	out.writes = nil
	if err := table.Write(out); err != nil || len(out.writes) != 0 {
		t.Errorf("a second Write wrote %v (%v)", out.writes, err)
	}
}

func TestSetPartitionSizeRefuses(t *testing.T) {
	for _, tt := range []struct {
		summary string
		n       int
		size    int64
		is      error
	}{
		{"no such partition", 3, mib, parttable.ErrMissing},
		{"no such entry", 5, mib, parttable.ErrMissing},
		{"shrinking", 2, 8*mib - 512, parttable.ErrShrink},
		{"into the next", 1, 4*mib + 512, parttable.ErrOverlap},
		{"past 32 bits of sectors", 2, (1<<32-1)*512 - 8*mib + 512, parttable.ErrTooLarge},
		{"overflow", 2, 1<<63 - 512, parttable.ErrTooLarge},
		{"half a sector", 2, 9*mib + 100, nil},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			table, err := parttable.Read(bytes.NewReader(image(boot, root)), imageSize)
			if err != nil {
				t.Fatal(err)
			}
			before := table.Partitions
			err = table.SetPartitionSize(tt.n, tt.size)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			if table.Partitions != before {
				t.Errorf("partitions changed to %+v", table.Partitions)
			}
		})
	}
	table, err := parttable.Read(bytes.NewReader(image(boot, root)), imageSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.SetPartitionSize(2, (1<<32-1)*512-8*mib); err != nil {
		t.Errorf("the largest partition there can be: %v", err)
	}
	if err := table.SetDiskID(0); err == nil {
		t.Error("a disk id of 0 was taken")
	}
}

// TestJudgedBySfdisk has sfdisk make a table, and sfdisk say what became of it.
func TestJudgedBySfdisk(t *testing.T) {
	sfdisk := testtool.Need(t, "sfdisk")
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 20*mib); err != nil {
		t.Fatal(err)
	}
	script := "label: dos\nlabel-id: 0x12345678\nstart=8192, size=8192, type=c\nstart=16384, size=8192, type=83\n"
	testtool.Run(t, "sh", "-c", "printf '"+strings.ReplaceAll(script, "\n", `\n`)+"' | "+sfdisk+" --quiet "+path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := parttable.Read(f, 20*mib)
	if err != nil {
		t.Fatal(err)
	}
	if table.PARTUUID(1) != "12345678-01" {
		t.Errorf("partition 1 is %s", table.PARTUUID(1))
	}
	if err := table.SetDiskID(0x0badcafe); err != nil {
		t.Fatal(err)
	}
	if err := table.SetPartitionSize(2, 12*mib); err != nil {
		t.Fatal(err)
	}
	if err := table.Write(f); err != nil {
		t.Fatal(err)
	}
	dump := testtool.Run(t, "sfdisk", "--dump", path)
	for _, want := range []string{"label-id: 0x0badcafe", "size=       24576, type=83", "size=        8192, type=c"} {
		if !strings.Contains(dump, want) {
			t.Errorf("sfdisk does not say %q:\n%s", want, dump)
		}
	}
	if said := testtool.Run(t, "sfdisk", "--verify", path); strings.Contains(said, "mismatch") {
		t.Errorf("sfdisk finds fault:\n%s", said)
	}
}

func FuzzMBR(f *testing.F) {
	f.Add(image(boot, root)[:5000], int64(imageSize))
	f.Add(image(entry{0xee, 1, 16383})[:5000], int64(imageSize))
	f.Add([]byte("<!DOCTYPE html>"), int64(600))
	f.Add(image(boot, entry{0x83, 1<<32 - 1, 1<<32 - 1})[:600], int64(1)<<62)
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		table, err := parttable.Read(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		for i, p := range table.Partitions {
			if p.Used() && (p.Start < 512 || p.Size <= 0 || p.End() > size) {
				t.Errorf("partition %d of %d bytes was accepted: %+v", i+1, size, p)
			}
		}
		out := &recorder{image: bytes.Clone(b)}
		if err := table.SetPartitionSize(2, table.Partitions[1].Size+parttable.SectorSize); err != nil {
			return
		}
		if err := table.Write(out); err != nil {
			t.Fatal(err)
		}
		again, err := parttable.Read(bytes.NewReader(out.image), size+parttable.SectorSize)
		if err != nil {
			t.Fatal(err)
		}
		if again.Partitions != table.Partitions {
			t.Errorf("wrote %+v, read back %+v", table.Partitions, again.Partitions)
		}
	})
}

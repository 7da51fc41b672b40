package rootdisk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"hatchery/netboot/node/rootdisk"
)

const mebi = 1 << 20

// superblock puts an ext4 superblock at a partition's beginning.
func superblock(disk []byte, at int, label string, shift, incompatible uint32, state uint16) {
	s := disk[at+1024:]
	binary.LittleEndian.PutUint32(s[24:], shift)
	binary.LittleEndian.PutUint16(s[56:], 0xef53)
	binary.LittleEndian.PutUint16(s[58:], state)
	binary.LittleEndian.PutUint32(s[92:], 0x4)
	binary.LittleEndian.PutUint32(s[96:], incompatible)
	for i := range 16 {
		s[104+i] = byte(0x10 + i)
	}
	copy(s[120:136], label)
}

func entry(table []byte, i int, kind byte, start, size uint32) {
	e := table[446+16*i:]
	e[4] = kind
	binary.LittleEndian.PutUint32(e[8:], start)
	binary.LittleEndian.PutUint32(e[12:], size)
	table[510], table[511] = 0x55, 0xaa
}

// card is a disk with a boot partition, a root, and a logical one.
func card() []byte {
	disk := make([]byte, 8*mebi)
	binary.LittleEndian.PutUint32(disk[440:], 0x1a2b3c4d)
	entry(disk, 0, 0x0c, 2048, 2048)
	entry(disk, 1, 0x83, 4096, 4096)
	entry(disk, 2, 0x05, 8192, 8192)
	entry(disk[8192*512:], 0, 0x83, 2048, 2048)
	superblock(disk, 2*mebi, "rootfs", 2, 0x42, 1)
	superblock(disk, 5*mebi, "data", 0, 0x44, 3)
	return disk
}

func read(t *testing.T, disk []byte) rootdisk.Disk {
	t.Helper()
	d, err := rootdisk.Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRead(t *testing.T) {
	d := read(t, card())
	want := `PARTUUID=1a2b3c4d-01 (1 MiB, type 0c), PARTUUID=1a2b3c4d-02 (2 MiB, ext4 "rootfs"), PARTUUID=1a2b3c4d-05 (1 MiB, ext4 "data")`
	if d.String() != want {
		t.Errorf("%s, want\n%s", d, want)
	}
	if p := d.Partitions[1]; p.Start != 2*mebi || p.BlockSize != 4096 || p.UUID != "10111213-1415-1617-1819-1a1b1c1d1e1f" || p.NeedsJournal || p.Faulty {
		t.Errorf("%+v", p)
	}
	if p := d.Partitions[2]; p.BlockSize != 1024 || !p.NeedsJournal || !p.Faulty || p.Node() != "nbd0p5" {
		t.Errorf("%+v", p)
	}
	if uuid, err := rootdisk.UUID(bytes.NewReader(card()), 2*mebi); uuid != d.Partitions[1].UUID || err != nil {
		t.Errorf("%s, %v", uuid, err)
	}

	bare := make([]byte, 4*mebi)
	superblock(bare, 0, "rootfs", 2, 0x40, 1)
	d = read(t, bare)
	if p, err := d.Find("/dev/nbd0"); d.Partitioned || err != nil || p.Node() != "nbd0" || p.BlockSize != 4096 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestReadRefuses(t *testing.T) {
	gpt := make([]byte, mebi)
	entry(gpt, 0, 0xee, 1, 2047)
	for _, test := range []struct {
		summary string
		disk    []byte
		words   string
	}{
		{"zeroes", make([]byte, mebi), "no partition table"},
		{"a GPT", gpt, "GPT"},
		{"a piece", make([]byte, 100), "first sector"},
	} {
		if _, err := rootdisk.Read(bytes.NewReader(test.disk), int64(len(test.disk))); err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v", test.summary, err)
		}
	}
	// What lies past the disk's end is left out; a table that leads in a circle
	// ends.
	disk := card()
	entry(disk, 3, 0x83, 1<<20, 100)
	entry(disk[8192*512:], 1, 0x05, 0, 100)
	if d := read(t, disk); len(d.Partitions) != 3 {
		t.Errorf("%s", d)
	}
	circle := card()
	second := circle[10240*512:]
	entry(circle[8192*512:], 1, 0x05, 2048, 100)
	entry(second, 0, 0x83, 1, 1)
	entry(second, 1, 0x05, 2048, 100)
	if d := read(t, circle); len(d.Partitions) > 70 {
		t.Errorf("%d partitions", len(d.Partitions))
	}
}

func TestFind(t *testing.T) {
	d := read(t, card())
	for _, test := range []struct {
		root string
		want int
		err  string
	}{
		{root: "PARTUUID=1a2b3c4d-02", want: 2},
		{root: "PARTUUID=1A2B3C4D-05", want: 5},
		{root: "/dev/mmcblk0p2", want: 2},
		{root: "/dev/nbd0p1", want: 1},
		{root: "/dev/sda2", want: 2},
		{root: "/dev/vdb5", want: 5},
		{root: "LABEL=rootfs", want: 2},
		{root: "UUID=10111213-1415-1617-1819-1A1B1C1D1E1F", want: 2},
		{root: "PARTUUID=1a2b3c4d-03", err: "it has PARTUUID=1a2b3c4d-01"},
		{root: "PARTUUID=99999999-02", err: "correct root= in cmdline.txt"},
		{root: "/dev/mmcblk0p7", err: "not on this disk"},
		{root: "LABEL=", err: "not on this disk"},
		{root: "/dev/nfs", err: "names no partition"},
		{root: "/dev/mmcblk0", err: "names no partition"},
		{root: "/dev/mmcblk0p0", err: "names no partition"},
		{root: "/dev/mmcblk0p-2", err: "names no partition"},
		{root: "/dev/sda", err: "names no partition"},
		{root: "overlay", err: "names no partition"},
		{root: "PARTLABEL=root", err: "no known kind"},
	} {
		p, err := d.Find(test.root)
		if test.err == "" && (err != nil || p.Number != test.want) || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: %d, %v", test.root, p.Number, err)
		}
	}
	if _, err := d.Find("LABEL=x"); !errors.Is(err, rootdisk.ErrNotFound) {
		t.Error(err)
	}
}

// A sparseDisk is zeroes but for its beginning.
type sparseDisk struct {
	begin []byte
	reads int
}

func (s *sparseDisk) ReadAt(p []byte, off int64) (int, error) {
	s.reads++
	clear(p)
	if off < 0 {
		return 0, io.ErrUnexpectedEOF
	}
	if off < int64(len(s.begin)) {
		copy(p, s.begin[off:])
	}
	return len(p), nil
}

func FuzzRead(f *testing.F) {
	f.Add(card()[:6*mebi/16], int64(8*mebi))
	bare := make([]byte, 4096)
	superblock(bare, 0, "x", 2, 0x40, 1)
	f.Add(bare, int64(mebi))
	f.Fuzz(func(t *testing.T, begin []byte, size int64) {
		s := &sparseDisk{begin: begin}
		d, err := rootdisk.Read(s, size)
		if s.reads > 300 {
			t.Errorf("%d reads", s.reads)
		}
		if err != nil {
			return
		}
		_ = d.String()
		for _, p := range d.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > size {
				t.Errorf("%+v of %d", p, size)
			}
		}
	})
}

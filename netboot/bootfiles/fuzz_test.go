package bootfiles_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"hatchery/internal/bootpart"

	"hatchery/netboot/bootfiles"
)

// FuzzConfig gives foreign texts to what is made of config.txt, of an included
// file and of cmdline.txt, and of overlay_map.dtb.
func FuzzConfig(f *testing.F) {
	i := miniature(f, "bookworm")
	f.Add("gpu_mem=16\n[pi0]\ndtoverlay=a,b:c\ninclude extra.txt\n[all]\ndtoverlay=\nkernel=/kernel.img\n", "[gpio4=1]\nos_prefix=a/\ninclude config.txt", "root=PARTUUID=5e7a11d0-02 \"a b\" -- x", overlayMap())
	f.Add("initramfs a b\nauto_initramfs=1\n[pi0]\r\ninclude  extra.txt \r\ndevice_tree=\n", "x", "root=/dev/mmcblk0p2", "\xd0\x0d\xfe\xed")
	f.Add("[\n]\n=\n= =\n\x00\ninclude\ninclude =\n[]\n[none]\narm_64bit=0x1\noverlay_prefix=../\ndtoverlay=../../x", "", "", "")
	f.Fuzz(func(t *testing.T, config, extra, line, names string) {
		image := i.over(t).boot(t, func(fs *bootpart.FS) error {
			for name, content := range map[string]string{"config.txt": config, "extra.txt": extra, "cmdline.txt": line, "overlays/overlay_map.dtb": names} {
				if err := fs.WriteFile(name, []byte(content)); err != nil {
					return err
				}
			}
			return nil
		})
		b, err := bootfiles.Open(context.Background(), image.options())
		if err != nil {
			return
		}
		made := string(b.Config())
		if n := strings.Count(made, "\ninitramfs "); n != 1 || !strings.HasSuffix(made, "\ndtoverlay=dwc2,dr_mode=peripheral\ninitramfs hatchery-initramfs.img followkernel\n") {
			t.Errorf("%d lines load an initramfs:\n%s", n, made)
		}
		if !strings.HasPrefix(b.Cmdline(), "hatchery.slot=2 ") || strings.ContainsAny(b.Cmdline(), "\n\x00") || len(b.Cmdline()) > 1023 {
			t.Errorf("%q", b.Cmdline())
		}
		for _, file := range b.Files() {
			if r, err := b.Open(file.Name); err != nil || r.Size() != file.Size {
				t.Errorf("%s: %v", file.Name, err)
			}
		}
	})
}

// FuzzDisk changes bytes of a disk where its structures are.
func FuzzDisk(f *testing.F) {
	i := miniature(f, "bookworm")
	table := i.table(f)
	boot, root := table.Partition(1), table.Partition(2)
	head := make([]byte, 512)
	if _, err := i.disk.ReadAt(head, boot.Start); err != nil {
		f.Fatal(err)
	}
	fat := boot.Start + 512*(int64(head[14])|int64(head[15])<<8)
	data := fat + 2*512*(int64(head[36])|int64(head[37])<<8)
	f.Add(uint8(0), uint32(446), []byte{0x80, 1, 2, 3, 0x0c})
	f.Add(uint8(1), uint32(11), []byte{0, 2, 8, 1, 0, 1})
	f.Add(uint8(1), uint32(36), []byte{1})
	f.Add(uint8(2), uint32(8), []byte{3, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0})
	f.Add(uint8(3), uint32(26), []byte{2, 0, 0xff, 0xff, 0xff, 0x7f})
	f.Add(uint8(4), uint32(24), []byte{9})
	f.Fuzz(func(t *testing.T, where uint8, at uint32, change []byte) {
		image := i.over(t)
		starts := []int64{0, boot.Start, fat, data, root.Start + 1024, root.Start + 4096, root.Start + 64<<10}
		lengths := []int64{512, 4096, 64 << 10, 256 << 10, 1024, 64 << 10, 4 << 20}
		k := int(where) % len(starts)
		if len(change) > 4096 {
			change = change[:4096]
		}
		if _, err := image.disk.WriteAt(change, starts[k]+int64(at)%lengths[k]); err != nil {
			t.Fatal(err)
		}
		b, err := bootfiles.Open(context.Background(), image.options())
		if err != nil {
			return
		}
		for _, file := range b.Files() {
			r, err := b.Open(file.Name)
			if err != nil {
				t.Errorf("%s was there: %v", file.Name, err)
				continue
			}
			var content bytes.Buffer
			if n, err := io.Copy(&content, r); err != nil || n != file.Size {
				t.Errorf("%s: %d of %d bytes: %v", file.Name, n, file.Size, err)
			}
		}
	})
}

// FuzzAdapt gives foreign texts to what is made of config.txt and what it
// includes, without a disk.
func FuzzAdapt(f *testing.F) {
	f.Add("gpu_mem=16\n[pi0]\ndtoverlay=a,b:c\ninclude extra.txt\n[all]\ndtoverlay=\n", "[gpio4=1]\ninclude extra.txt")
	f.Add("initramfs a b\nauto_initramfs=1\n[pi0]\r\ninclude  extra.txt \r\n[pi4]\ninclude extra.txt\ndevice_tree=\n", "[pi5]\n")
	f.Add("[\n]\n=\n= =\n\x00\ninclude\ninclude =\n[]\n[none]\n[all\n", "[EDID=x]\ndtoverlay=x")
	f.Fuzz(func(t *testing.T, config, extra string) {
		made, _, err := bootfiles.AdaptConfig(map[string]string{"config.txt": config, "extra.txt": extra})
		if err != nil {
			return
		}
		c := bootpart.ParseConfig([]byte(made))
		if own := c.EffectiveAll(bootpart.ModelZeroW, "initramfs"); len(own) != 1 || own[0] != "hatchery-initramfs.img followkernel" {
			t.Errorf("%q:\n%s", own, made)
		}
		if auto, ok := c.Effective(bootpart.ModelZeroW, "auto_initramfs"); ok {
			t.Errorf("auto_initramfs=%s:\n%s", auto, made)
		}
		ports := 0
		for _, overlay := range c.EffectiveAll(bootpart.ModelZeroW, "dtoverlay") {
			if bootpart.IsOverlay("dtoverlay="+overlay, "dwc2") {
				ports++
			}
		}
		if ports != 1 {
			t.Errorf("%d overlays for the USB port:\n%s", ports, made)
		}
		for name := range c.Includes() {
			t.Errorf("%d is included still:\n%s", name, made)
		}
	})
}

func FuzzTree(f *testing.F) {
	f.Add([]byte(overlayMap()), "pi3-disable-bt")
	f.Add([]byte(flat([]string{"a", "renamed=b"}, []string{"b", "renamed=a"})), "a")
	f.Fuzz(func(t *testing.T, tree []byte, name string) {
		bootfiles.ParseTree(tree, name)
	})
}

// TestVolumeLimits reads file systems whose names would take much memory.
func TestVolumeLimits(t *testing.T) {
	put := binary.LittleEndian
	const cluster, fat, data = 32 << 10, 512, 1024
	disk := make([]byte, data+100*cluster)
	put.PutUint16(disk[11:], 512)
	disk[13], disk[14], disk[16] = cluster/512, 1, 1
	put.PutUint32(disk[32:], uint32(len(disk)/512))
	put.PutUint32(disk[36:], 1)
	put.PutUint32(disk[44:], 2)
	put.PutUint16(disk[510:], 0xaa55)
	// A name of 250 characters, and of its eleven.
	entry := func(short string, long bool, attr byte, first int) []byte {
		check := byte(0)
		for _, c := range []byte(short) {
			check = check<<7 | check>>1
			check += c
		}
		var all []byte
		for n := 20; long && n > 0; n-- {
			s := bytes.Repeat([]byte{0, 0x4e}, 16) // U+4E00
			for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
				put.PutUint16(s[at:], 0x4e00)
			}
			s[0], s[11], s[12], s[13] = byte(n), 0x0f, 0, check
			if n == 20 {
				s[0] |= 0x40
			}
			all = append(all, s...)
		}
		s := make([]byte, 32)
		copy(s, short)
		s[11] = attr
		put.PutUint16(s[26:], uint16(first))
		return append(all, s...)
	}
	content := func(first int, entries []byte) {
		copy(disk[data+(first-2)*cluster:], entries)
		for ; len(entries) > cluster; entries = entries[cluster:] {
			put.PutUint32(disk[fat+4*first:], uint32(first+1))
			first++
		}
		put.PutUint32(disk[fat+4*first:], 0x0fffffff)
	}
	files := func(n int) (all []byte) {
		for i := range n {
			all = append(all, entry(fmt.Sprintf("F%07d   ", i), false, 0x20, 0)...)
		}
		return all
	}
	// Folders in each other, by long names: their paths are too long, and the
	// short ones are not.
	for depth := range 14 {
		content(2+depth, entry(fmt.Sprintf("D%07d   ", depth), true, 0x10, 3+depth))
	}
	content(16, files(4000))
	all, err := bootfiles.ReadVolume(bytes.NewReader(disk), int64(len(disk)))
	if err != nil || len(all) != 4000 {
		t.Error(len(all), err)
	}
	for name := range all {
		if len(name) > 255 {
			t.Fatalf("a path of %d bytes", len(name))
		}
	}
	content(16, files(5000))
	if _, err := bootfiles.ReadVolume(bytes.NewReader(disk), int64(len(disk))); err == nil || !strings.Contains(err.Error(), "more than 4096 entries") {
		t.Error(err)
	}
}

// FuzzVolume reads small file systems: 64 KiB, of clusters of 512 bytes.
func FuzzVolume(f *testing.F) {
	const size = 64 << 10
	disk := make([]byte, size)
	put := binary.LittleEndian
	copy(disk, "\xeb\x58\x90MSWIN4.1")
	put.PutUint16(disk[11:], 512)
	disk[13], disk[14], disk[16] = 1, 1, 1
	put.PutUint32(disk[32:], size/512)
	put.PutUint32(disk[36:], 1)
	put.PutUint32(disk[44:], 2)
	put.PutUint16(disk[510:], 0xaa55)
	for cluster, next := range map[int]uint32{2: 0x0fffffff, 3: 5, 5: 4, 4: 0x0fffffff, 6: 0x0fffffff} {
		put.PutUint32(disk[512+4*cluster:], next)
	}
	slot := func(at int, name string, attr byte, first uint16, length uint32) {
		copy(disk[at:], name)
		disk[at+11] = attr
		put.PutUint16(disk[at+26:], first)
		put.PutUint32(disk[at+28:], length)
	}
	slot(1024, "CONFIG  TXT", 0x20, 3, 1200)
	slot(1024+32, "OVERLAYS   ", 0x10, 6, 0)
	slot(1024+2048, "DWC2    DTB", 0x20, 3, 100)
	slot(1024+2048+32, "LOOP       ", 0x10, 6, 0) // the folder itself
	f.Add(disk[:4096], uint16(20))
	f.Add(disk[:2048], uint16(0))
	if all, err := bootfiles.ReadVolume(bytes.NewReader(disk), size); err != nil || len(all) != 2 || all["CONFIG.TXT"] != 1200 || all["OVERLAYS/DWC2.DTB"] != 100 {
		f.Fatal(all, err)
	}
	f.Fuzz(func(t *testing.T, b []byte, more uint16) {
		disk := append(bytes.Clone(b), make([]byte, more)...)
		all, err := bootfiles.ReadVolume(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			return
		}
		for name, n := range all {
			if n > int64(len(disk)) || name == "" || strings.HasPrefix(name, "/") {
				t.Errorf("%q has %d bytes of %d", name, n, len(disk))
			}
		}
	})
}

package grow_test

import (
	"os"
	"path/filepath"
	"testing"

	"hatchery/firstboot/grow"
	"hatchery/internal/testtool"
)

// TestSuperblock reads what mke2fs wrote.
func TestSuperblock(t *testing.T) {
	for _, test := range []struct {
		summary string
		size    string
		options []string
		high    byte // of the number of blocks
		want    int64
	}{
		{"as Raspberry Pi OS's", "96M", []string{"-O", "^64bit,^metadata_csum"}, 0, 96 << 20},
		{"blocks of 1 KiB", "33M", []string{"-b", "1024"}, 0, 33 << 20},
		{"more blocks than 32 bits count", "64M", []string{"-b", "4096", "-O", "64bit"}, 1, 64<<20 + 4096<<32},
		{"bits that mean nothing", "64M", []string{"-b", "4096", "-O", "^64bit"}, 1, 64 << 20},
	} {
		name := filepath.Join(t.TempDir(), "fs")
		testtool.Run(t, "truncate", "-s", test.size, name)
		testtool.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-t", "ext4"}, test.options...), name)...)
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		superblock := make([]byte, 1024)
		_, err = f.ReadAt(superblock, 1024)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		superblock[0x150] = test.high
		if got, err := grow.ParseSuperblock(superblock); err != nil || got != test.want {
			t.Errorf("%s: got %d, %v, want %d", test.summary, got, err, test.want)
		}
	}
}

func FuzzSuperblock(f *testing.F) {
	sane := make([]byte, 1024)
	sane[0x38], sane[0x39], sane[0x18], sane[0x05], sane[0x21] = 0x53, 0xef, 2, 1, 0x80
	f.Add(sane)
	f.Add(sane[:100])
	large := append([]byte(nil), sane...)
	large[0x60], large[0x152] = 0x80, 0xff
	f.Add(large)
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, err := grow.ParseSuperblock(b)
		if err == nil && size <= 0 {
			t.Errorf("a file system of %d bytes", size)
		}
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}

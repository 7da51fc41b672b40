package initramfs_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"hatchery/internal/testtool"

	"hatchery/netboot/initramfs"
)

// vmlinux is an uncompressed kernel, as far as it is looked at: noise, with the
// banner at a place.
func vmlinux(at, size int, banner string) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32()) &^ 0x1f // no magic number by chance
	}
	copy(b[at:], banner)
	return b
}

// zImage wraps something as arch/arm/boot/compressed does.
func zImage(payload []byte) []byte {
	b := make([]byte, 0x4000, 0x4000+len(payload)+8)
	binary.LittleEndian.PutUint32(b[0x24:], 0x016f2818)
	return append(append(b, payload...), 0, 0, 0, 0)
}

// image is one for 64 bits.
func image(content []byte) []byte {
	copy(content[0x38:], "ARM\x64")
	return content
}

func tool(t *testing.T, content []byte, name string, args ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(testtool.Need(t, name), append(args, file)...).Output()
	if err != nil {
		t.Fatal(name, err)
	}
	return out
}

func legacy(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := lz4.NewWriter(&b)
	if err := w.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadKernel(t *testing.T) {
	const banner = "Linux version " + release + " (serge@raspberrypi.com) (gcc) #1 Raspbian\n\x00"
	kernel := vmlinux(300_000, 1_000_000, banner)
	gzipped := packed(".gz", kernel)
	for _, c := range []struct {
		summary string
		file    []byte
		want    initramfs.Kernel
	}{
		{"Image", image(vmlinux(300_000, 1_000_000, banner)), initramfs.Kernel{Release: release, Architecture: "arm64"}},
		{"Image.gz", packed(".gz", image(vmlinux(300_000, 1_000_000, banner))), initramfs.Kernel{Release: release, Architecture: "arm64"}},
		{"zImage with gzip", zImage(gzipped), initramfs.Kernel{Release: release, Architecture: "arm"}},
		{"zImage with xz and the filter for ARM", zImage(tool(t, kernel, "xz", "--check=crc32", "--arm", "--lzma2=dict=128MiB", "-c")), initramfs.Kernel{Release: release, Architecture: "arm"}},
		{"zImage with xz, without a filter", zImage(tool(t, kernel, "xz", "-c")), initramfs.Kernel{Release: release, Architecture: "arm"}},
		{"zImage with zstd", zImage(tool(t, kernel, "zstd", "--ultra", "-22", "-c")), initramfs.Kernel{Release: release, Architecture: "arm"}},
		{"zImage with lz4", zImage(legacy(t, kernel)), initramfs.Kernel{Release: release, Architecture: "arm"}},
		{"magic numbers before it", zImage(append([]byte("\x1f\x8b\x08\xfd7zXZ\x00\x28\xb5\x2f\xfd\x02\x21\x4c\x18"), gzipped...)), initramfs.Kernel{Release: release, Architecture: "arm"}},
		{"at the seam of what is read at once", vmlinux(64<<10-20, 1_000_000, banner), initramfs.Kernel{Release: release}},
		{"another text before it", vmlinux(1000, 1_000_000, "Linux version %s (%s)\x00 Linux version ../../etc (x) Linux version 6 (x)"+banner), initramfs.Kernel{Release: release}},
		{"the longest release", []byte("Linux version 6." + strings.Repeat("x", 62) + " (x"), initramfs.Kernel{Release: "6." + strings.Repeat("x", 62)}},
		{"one that is too long", []byte("Linux version 6." + strings.Repeat("x", 63) + " (x"), initramfs.Kernel{}},
		{"cut off", zImage(gzipped[:100_000]), initramfs.Kernel{Architecture: "arm"}},
		{"nothing", nil, initramfs.Kernel{}},
		{"a short one", []byte("\xfd7zXZ\x00"), initramfs.Kernel{}},
	} {
		got, err := initramfs.ReadKernel(c.file)
		if got != c.want || (err == nil) != (c.want.Release != "") {
			t.Errorf("%s: %+v, %v, want %+v", c.summary, got, err, c.want)
		}
	}
}

// TestKernelsOfBombs sees that a file cannot make it unpack for ever.
func TestKernelsOfBombs(t *testing.T) {
	bomb := packed(".gz", make([]byte, 64<<20))
	file := bytes.Repeat(bomb, 20)
	if k, err := initramfs.ReadKernel(file); err != initramfs.ErrNoRelease {
		t.Error(k, err)
	}
}

// TestDecoys: what looks like a packed kernel and is none is unpacked a few times
// and no more, since each try takes its memory; other ways of packing have tries
// of their own.
func TestDecoys(t *testing.T) {
	packed := func(text string) []byte {
		var b bytes.Buffer
		w, err := xz.NewWriter(&b)
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	decoy, kernel := packed("nothing to see"), packed(strings.Repeat("Linux version 6.1.0-1-rpi (gcc)\n", 100))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write([]byte("Linux version 6.1.0-2-rpi (gcc)"))
	z.Close()
	for _, c := range []struct {
		summary string
		parts   [][]byte
		want    string
	}{
		{"one decoy", [][]byte{decoy, kernel}, "6.1.0-1-rpi"},
		{"forty decoys", append(slices.Repeat([][]byte{decoy}, 40), kernel), ""},
		{"forty decoys, and one in gzip", append(slices.Repeat([][]byte{decoy}, 40), zipped.Bytes()), "6.1.0-2-rpi"},
	} {
		got, err := initramfs.KernelRelease(bytes.Join(c.parts, nil))
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v, want %q", c.summary, got, err, c.want)
		}
	}
}

package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/testtool"
)

// header asks dumpe2fs for one line of the superblock.
func header(t testing.TB, path, name string) string {
	t.Helper()
	out := testtool.Run(t, "dumpe2fs", "-h", path)
	for line := range strings.SplitSeq(out, "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && key == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// extend makes the image's file larger and strews a pattern over what is new.
func extend(t testing.TB, path string, size int64, with []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	succeed(t, err)
	defer f.Close()
	old, err := f.Seek(0, 2)
	succeed(t, err)
	succeed(t, f.Truncate(size))
	if len(with) == 0 {
		return
	}
	chunk := bytes.Repeat(with, 64<<10/len(with))
	for at := old; at < size; at += 512 << 10 {
		_, err := f.WriteAt(chunk[:min(int64(len(chunk)), size-at)], at)
		succeed(t, err)
	}
}

// TestGrow grows every shape of file system, over zeros and over garbage, by
// less than a group and by many, and uses what is new.
func TestGrow(t *testing.T) {
	for _, variant := range ext4test.Variants() {
		for _, garbage := range []bool{false, true} {
			if !garbage && variant.BlockSize != 4096 {
				continue
			}
			t.Run(fmt.Sprintf("%s,garbage=%v", variant.Name, garbage), func(t *testing.T) {
				t.Parallel()
				fs := newEdited(t, variant, 24<<20)
				var pattern []byte
				if garbage {
					pattern = []byte{0xa5, 0x5a, 0xff, 0x01}
				}
				content := noise(3, 300_000)
				succeed(t, fs.Create("/before", bytes.NewReader(content), attr(0o644)))
				for i := range 300 {
					fs.create(fmt.Sprintf("/small%d", i), strings.Repeat("x", i))
				}
				sizes := []int64{24<<20 + 300_000, 31<<20 + 12345, 140 << 20, 200 << 20}
				files := 40
				if variant.Name == "no-sparse-super" {
					sizes, files = []int64{24<<20 + 300_000, 30 << 20, 60 << 20}, 20
				}
				for _, size := range sizes {
					extend(t, fs.path, size, pattern)
					succeed(t, fs.Grow(size))
					fs.flush()
					usage := fs.Usage()
					if short := size - int64(usage.Blocks)*usage.BlockSize; short < 0 || short > 3<<20 {
						t.Errorf("grown to %d bytes: %d blocks of %d", size, usage.Blocks, usage.BlockSize)
					}
				}
				// Everything new can be written on.
				big := noise(4, 1<<20)
				for i := range files {
					succeed(t, fs.Create(fmt.Sprintf("/after%d", i), bytes.NewReader(big), attr(0o644)))
				}
				succeed(t, fs.Mkdir("/d", attr(0o755)))
				for i := range 3000 {
					if err := fs.Create(fmt.Sprintf("/d/%d", i), strings.NewReader(""), attr(0o644)); err != nil {
						if errors.Is(err, ext4.ErrNoSpace) && fs.Usage().FreeInodes == 0 {
							break
						}
						t.Fatal(err)
					}
				}
				fs.flush()
				again := fs.reopened()
				for path, want := range map[string][]byte{"/before": content, "/after0": big, fmt.Sprintf("/after%d", files-1): big} {
					got, err := again.ReadFile(path)
					succeed(t, err)
					if !bytes.Equal(got, want) {
						t.Errorf("%s has changed", path)
					}
				}
				if after, err := again.ReadDir("/d"); err != nil || len(after) < 1500 {
					t.Errorf("%d files in /d: %v", len(after), err)
				}
				// The last copy of the superblock is a whole one.
				if strings.Contains(variant.Features, "metadata_csum_seed") || variant.Name == "bookworm-4k" || variant.Name == "buster-1k" {
					backups := regexp.MustCompile(`Backup superblock at (\d+)`).FindAllStringSubmatch(testtool.Run(t, "dumpe2fs", fs.path), -1)
					last := backups[len(backups)-1][1]
					blocks := strconv.FormatUint(fs.Usage().Blocks, 10)
					out := testtool.Run(t, "dumpe2fs", "-h", "-o", "superblock="+last, "-o", fmt.Sprintf("blocksize=%d", variant.BlockSize), fs.path)
					number, err := strconv.ParseInt(last, 10, 64)
					succeed(t, err)
					raw := make([]byte, 2)
					_, err = fs.f.ReadAt(raw, number*int64(variant.BlockSize)+0x5a)
					succeed(t, err)
					group := number / int64(8*variant.BlockSize)
					if got := int64(raw[0]) | int64(raw[1])<<8; got != group {
						t.Errorf("the copy in group %d says it is of group %d", group, got)
					}
					if !regexp.MustCompile(`(?m)^Block count: +` + blocks + `$`).MatchString(out) {
						t.Errorf("the copy in block %s does not say %s blocks", last, blocks)
					}
				}
			})
		}
	}
}

// TestGrowAsResize2fs compares the layout with what resize2fs makes of the same.
func TestGrowAsResize2fs(t *testing.T) {
	for _, variant := range ext4test.Variants() {
		t.Run(variant.Name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int64{40 << 20, 129<<20 + 5000, 144<<20 + 1<<19} {
				if variant.Name == "no-sparse-super" && size > 64<<20 {
					continue // resize2fs moves files out of the way there
				}
				ours, theirs := ext4test.Make(t, variant, 32<<20), filepath.Join(t.TempDir(), "theirs")
				ext4test.MakeAt(t, theirs, variant, 32<<20)
				for _, path := range []string{ours, theirs} {
					extend(t, path, size, nil)
				}
				fs := openEdited(t, ours)
				succeed(t, fs.Grow(size))
				fs.flush()
				testtool.Run(t, "resize2fs", theirs)
				for _, name := range []string{"Block count", "Inode count", "Reserved block count", "Reserved GDT blocks", "Free inodes", "Free blocks"} {
					if got, want := header(t, ours, name), header(t, theirs, name); got != want {
						t.Errorf("%d bytes: %s: %s, resize2fs has %s", size, name, got, want)
					}
				}
			}
		})
	}
}

func TestGrowLimits(t *testing.T) {
	variant := ext4test.Named(t, "bookworm-1k")
	variant.Features += ",^resize_inode" // no descriptor blocks beyond the first: 32 groups
	const size = 16<<20 + 1024           // two whole groups
	fs := newEdited(t, variant, size)
	succeed(t, fs.Grow(size)) // mke2fs left the last block out
	fs.flush()
	before, err := os.ReadFile(fs.path)
	succeed(t, err)

	if err := fs.Grow(size - 4096); !errors.Is(err, iofs.ErrInvalid) {
		t.Errorf("shrinking: %v", err)
	}
	if err := fs.Grow(-1); !errors.Is(err, iofs.ErrInvalid) {
		t.Errorf("a negative size: %v", err)
	}
	succeed(t, fs.Grow(size))
	succeed(t, fs.Grow(size+100_000)) // a group of 97 blocks holds nothing
	var limit *ext4.GrowLimitError
	if err := fs.Grow(1 << 40); !errors.As(err, &limit) {
		t.Fatalf("a terabyte: %v", err)
	}
	succeed(t, fs.Flush())
	after, err := os.ReadFile(fs.path)
	succeed(t, err)
	if !bytes.Equal(before, after) {
		t.Error("what was refused has changed the image")
	}

	extend(t, fs.path, limit.Largest+10<<20, nil)
	if err := fs.Grow(limit.Largest + 4096*40000); !errors.As(err, new(*ext4.GrowLimitError)) {
		t.Errorf("more than the most: %v", err)
	}
	succeed(t, fs.Grow(limit.Largest))
	if limit.Largest != 256<<20+1024 || limit.Wanted != 1<<40 {
		t.Errorf("%+v", limit)
	}
	if got := int64(fs.Usage().Blocks) * 1024; got != limit.Largest {
		t.Errorf("grown to %d, want %d", got, limit.Largest)
	}
	fs.flush()
}

// TestGrowRollsBack has the device fail while inode tables are zeroed.
func TestGrowRollsBack(t *testing.T) {
	path := ext4test.Make(t, ext4test.Named(t, "buster-1k"), 24<<20)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	succeed(t, err)
	defer f.Close()
	// The file is as large as before: what Grow must read is not there.
	fs, err := ext4.Open(f, 24<<20)
	succeed(t, err)
	usage := fs.Usage()
	if err := fs.Grow(100 << 20); err == nil {
		t.Fatal("grown beyond the device")
	}
	if now := fs.Usage(); now != usage {
		t.Errorf("after the failure %+v, before %+v", now, usage)
	}
	succeed(t, fs.Mkdir("/d", attr(0o755)))
	for i := range 1000 {
		succeed(t, fs.Create(fmt.Sprintf("/d/%d", i), strings.NewReader("x"), attr(0o644)))
	}
	succeed(t, fs.Flush())
	ext4test.Fsck(t, path)
	if info, err := f.Stat(); err != nil || info.Size() != 24<<20 {
		t.Errorf("the image has %d bytes now", info.Size())
	}
}

// mayResize says whether this process may have the kernel resize a mounted
// file system. Root in a container often may not.
func mayResize(t testing.TB) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	succeed(t, err)
	_, after, _ := strings.Cut(string(status), "CapEff:")
	var capabilities uint64
	_, err = fmt.Sscanf(after, "%x", &capabilities)
	succeed(t, err)
	const sysResource = 24
	return capabilities>>sysResource&1 != 0
}

// TestGrowsOn grows a file system here, then further as at a node's first boot:
// by the kernel while it is mounted, which takes the reserved descriptor blocks
// and the resize inode as they were left. Where the kernel must not be asked
// to, resize2fs does it unmounted.
func TestGrowsOn(t *testing.T) {
	testtool.NeedRoot(t)
	online := mayResize(t)
	if !online {
		t.Log("without CAP_SYS_RESOURCE: not grown by the kernel but by resize2fs")
	}
	for _, name := range []string{"bookworm-4k", "trixie-4k", "buster-4k", "deb-default-4k", "deb13-default-1k", "bookworm-1k", "buster-2k"} {
		t.Run(name, func(t *testing.T) {
			variant := ext4test.Named(t, name)
			fs := newEdited(t, variant, 64<<20)
			fs.create("/before", "x")
			// With 1 KiB blocks both steps need new descriptor blocks.
			sizes := []int64{200 << 20, 420 << 20}
			if variant.BlockSize == 4096 {
				sizes = []int64{1 << 30, 17 << 30}
			}
			extend(t, fs.path, sizes[0], nil)
			succeed(t, fs.Grow(sizes[0]))
			fs.flush()
			extend(t, fs.path, sizes[1], nil)
			if !online {
				testtool.Run(t, "resize2fs", fs.path)
				ext4test.Fsck(t, fs.path)
			}
			dir, unmount := ext4test.Mount(t, fs.path)
			device, err := exec.Command(testtool.Need(t, "findmnt"), "-n", "-o", "SOURCE", dir).Output()
			succeed(t, err)
			if online {
				testtool.Run(t, "resize2fs", strings.TrimSpace(string(device)))
			}
			random := rand.New(rand.NewPCG(1, 2))
			succeed(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
			for _, name := range manyNames(500, random) {
				succeed(t, os.WriteFile(filepath.Join(dir, "d", name), noise(1, 1000), 0o644))
			}
			unmount()
			ext4test.Fsck(t, fs.path)
			blocks, err := strconv.ParseInt(header(t, fs.path, "Block count"), 10, 64)
			succeed(t, err)
			if want := sizes[1] / int64(variant.BlockSize); blocks != want {
				t.Errorf("the kernel has grown it to %d blocks, want %d", blocks, want)
			}
		})
	}
}

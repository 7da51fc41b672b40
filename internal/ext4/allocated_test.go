package ext4_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/ext4"
	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/testtool"
)

// lazy gives the shapes in which mke2fs leaves inode tables to the kernel to
// zero, on a device that is full of garbage.
func lazy(t *testing.T) []ext4test.Variant {
	var all []ext4test.Variant
	for _, v := range ext4test.Releases(t) {
		v.Name += "-lazy"
		v.Extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=0"
		v.Garbage = true
		v.Options = []string{"-g", "2048", "-N", "4096"}
		all = append(all, v)
	}
	return all
}

// populate makes a tree with everything that takes blocks, with gaps where
// files were.
func populate(fs *edited) {
	fs.t.Helper()
	for d := range 3 {
		dir := fmt.Sprintf("d%d", d)
		succeed(fs.t, fs.Mkdir(dir, attr(0o755)))
		for i := range 120 {
			fs.create(fmt.Sprintf("%s/a-name-of-some-length-%d", dir, i), string(noise(uint64(d*120+i), 100*i)))
		}
	}
	fs.create("holes", "begin")
	succeed(fs.t, fs.Truncate("holes", 3<<20))
	succeed(fs.t, fs.Symlink(strings.Repeat("long/", 30), "link", attr(0)))
	for i := range 60 {
		succeed(fs.t, fs.Remove(fmt.Sprintf("d1/a-name-of-some-length-%d", 2*i)))
	}
	fs.flush()
}

// transplanted copies what is allocated onto a device full of noise, and
// gives its path and the ranges.
func transplanted(fs *edited) (string, [][2]int64) {
	t := fs.t
	t.Helper()
	info, err := fs.f.Stat()
	succeed(t, err)
	other := noise(99, int(info.Size()))
	var ranges [][2]int64
	end := int64(-1)
	succeed(t, fs.reopened().Allocated(func(offset, length int64) error {
		if offset <= end || length <= 0 {
			t.Errorf("%d bytes at %d, after a range that ends at %d", length, offset, end)
		}
		end = offset + length
		ranges = append(ranges, [2]int64{offset, length})
		_, err := fs.f.ReadAt(other[offset:end], offset)
		return err
	}))
	path := filepath.Join(t.TempDir(), "transplanted")
	succeed(t, writeFile(path, other))
	return path, ranges
}

func TestAllocated(t *testing.T) {
	for _, v := range slices.Concat(ext4test.Variants(), lazy(t)) {
		t.Run(v.Name, func(t *testing.T) {
			fs := newEdited(t, v, 32<<20)
			populate(fs)
			path, ranges := transplanted(fs)
			ext4test.Fsck(t, path)

			there := openEdited(t, path)
			if diff := cmp.Diff(tree(t, fs.FS), tree(t, there.FS)); diff != "" {
				t.Errorf("(-original +copy)\n%s", diff)
			}
			// The copy can be used on: tables that nobody zeroed take inodes.
			for i := range 300 {
				there.create(fmt.Sprintf("new-%d", i), "x")
			}
			there.flush()

			// dumpe2fs's opinion of what is free.
			free, unused := dumped(t, fs.path)
			u := fs.Usage()
			blocks := make([]bool, u.Blocks)
			for _, r := range ranges {
				for b := r[0] / u.BlockSize; b < (r[0]+r[1])/u.BlockSize; b++ {
					blocks[b] = true
				}
			}
			left := 0
			for b, in := range blocks {
				switch {
				case in && free[b]:
					t.Fatalf("block %d is free", b)
				case !in && !free[b]:
					left++
				}
			}
			if left != unused {
				t.Errorf("%d blocks in use are left out, want the %d of inode tables to be zeroed", left, unused)
			}
			if lazy := strings.HasSuffix(v.Name, "-lazy") && !strings.HasPrefix(v.Name, "buster"); lazy != (left > 0) {
				t.Errorf("%d blocks of inode tables left out", left)
			}
		})
	}
}

// dumped gives the free blocks as dumpe2fs lists them, and how many blocks of
// inode tables nobody has used or zeroed.
func dumped(t *testing.T, path string) (free map[int]bool, unused int) {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "dumpe2fs"), path).Output()
	succeed(t, err)
	free = map[int]bool{}
	super, groups, _ := strings.Cut(string(out), "\n\n\n")
	csum := strings.Contains(super, "metadata_csum")
	field := func(name string) (n int) {
		_, rest, ok := strings.Cut(super, "\n"+name+":")
		if _, err := fmt.Sscan(rest, &n); !ok || err != nil {
			t.Fatalf("dumpe2fs: no %s", name)
		}
		return n
	}
	size, perBlock := field("Inodes per group"), field("Block size")/field("Inode size")
	for _, group := range strings.Split("\n"+groups, "\nGroup ") {
		if strings.TrimSpace(group) == "" {
			continue
		}
		_, list, _ := strings.Cut(group, "\n  Free blocks: ")
		list, _, _ = strings.Cut(list, "\n")
		for part := range strings.SplitSeq(list, ", ") {
			var from, to int
			switch n, _ := fmt.Sscanf(part, "%d-%d", &from, &to); n {
			case 1:
				to = from
			case 0:
				continue
			}
			for b := from; b <= to; b++ {
				free[b] = true
			}
		}
		head, _, _ := strings.Cut(group, "\n")
		if !csum || strings.Contains(head, "ITABLE_ZEROED") {
			continue
		}
		n := 0
		if before, _, ok := strings.Cut(group, " unused inodes\n"); ok {
			_, err := fmt.Sscan(before[strings.LastIndex(before, " ")+1:], &n)
			succeed(t, err)
		}
		unused += size/perBlock - (size-n+perBlock-1)/perBlock
	}
	return free, unused
}

func TestAllocatedStops(t *testing.T) {
	fs := newEdited(t, ext4test.Named(t, "bookworm-4k"), 32<<20)
	stop := errors.New("stop")
	visits := 0
	err := fs.Allocated(func(int64, int64) error { visits++; return stop })
	if !errors.Is(err, stop) || visits != 1 {
		t.Fatalf("%d visits, %v", visits, err)
	}
}

// An inode in use behind what the descriptor counts as used is not left out:
// the file system is called corrupt.
func TestAllocatedSeesThroughWrongCounts(t *testing.T) {
	v := lazy(t)[0]
	path := ext4test.Make(t, v, 32<<20)
	fs := openEdited(t, path)
	for i := range 200 {
		fs.create(fmt.Sprint(i), "x")
	}
	fs.flush()
	// debugfs keeps the descriptor's checksum right.
	ext4test.Debugfs(t, path, true, "set_bg 0 itable_unused 900")
	ext4test.Debugfs(t, path, true, "set_bg 0 checksum calc")
	f, err := os.Open(path)
	succeed(t, err)
	defer f.Close()
	broken, err := ext4.OpenReadOnly(f, 32<<20)
	succeed(t, err)
	err = broken.Allocated(func(int64, int64) error { return nil })
	var corrupt *ext4.CorruptError
	if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "never used") {
		t.Fatal(err)
	}
}

// Whatever is damaged, what is given lies within the device, in order.
func TestAllocatedOfDamage(t *testing.T) {
	for _, name := range []string{"buster-4k", "bookworm-1k", "deb-default-4k"} {
		t.Run(name, func(t *testing.T) {
			m := loaded(t, ext4test.Named(t, name), 16<<20)
			random := rand.New(rand.NewPCG(1, 2))
			given := 0
			for range 3000 {
				// In superblock and descriptors, whose checksums come right
				// again where there are any, or behind them.
				d := &memory{data: m.data}
				at := 1024 + random.IntN(8192)
				if random.IntN(2) == 0 {
					at = 1024 + random.IntN(1<<20)
				}
				was := slices.Clone(d.data[at : at+4])
				super := slices.Clone(d.data[1024:2048])
				flip := byte(random.Uint32()) | 1
				d.data[at+random.IntN(4)] ^= flip
				if at < 2048 {
					sealSuper(d.data)
				}
				if fs, err := ext4.OpenReadOnly(d, int64(len(d.data))); err == nil {
					end := int64(-1)
					err := fs.Allocated(func(offset, length int64) error {
						if offset <= end || length <= 0 || offset+length > int64(len(d.data)) {
							t.Fatalf("%d bytes at %d, after a range that ends at %d", length, offset, end)
						}
						end = offset + length
						return nil
					})
					if err == nil {
						given++
					}
				}
				copy(d.data[at:], was)
				copy(d.data[1024:], super)
			}
			if given == 0 || given == 3000 {
				t.Errorf("%d of 3000 were accepted, so this shows little", given)
			}
		})
	}
}

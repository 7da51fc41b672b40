package diskimage_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// images are those that the judges look at: the miniatures and, where it is
// there, the stand-in base.
func images(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{
		"bullseye": imagetest.Release(t, "bullseye"),
		"bookworm": imagetest.Bookworm(t, odd()...),
		"trixie":   imagetest.Release(t, "trixie"),
		"GPT":      imagetest.Bookworm(t, imagetest.WithGPT()),
	}
	if base := os.Getenv("HATCHERY_BASE"); base != "" && !testing.Short() {
		raw := filepath.Join(t.TempDir(), "base.img")
		testtool.Run(t, "sh", "-c", "xz -dc \"$1\" >\"$2\"", "sh", base, raw)
		all["stand-in"] = raw
	}
	return all
}

// odd are files such as no release has.
func odd() []imagetest.Option {
	return []imagetest.Option{
		imagetest.WithFile("/srv/set", "setuid", fs.ModeSetuid|0o755, 0, 0),
		imagetest.WithFile("/srv/group", "setgid", fs.ModeSetgid|0o750, 1000, 42),
		imagetest.WithDir("/srv/sticky", fs.ModeSticky|0o777, 65534, 100000),
		imagetest.WithFile("/srv/large", strings.Repeat("0123456789abcdef", 200_000), 0o600, 1000, 1000),
		imagetest.WithSymlink(strings.Repeat("long/", 40)+"target", "/srv/long-link"),
		imagetest.WithBootFile("A Long Name With Blanks.and.dots.txt", strings.Repeat("boot ", 30_000)),
		imagetest.WithBootFile("deep/er/and/deeper/file.bin", "\x00\x01\x02"),
		imagetest.WithBootFile("empty", ""),
	}
}

// text is a tree as text, a line a file: all that a Node says but inode and
// links of folders, and the digest of the content.
func text(t testing.TB, tree diskimage.Tree, partition int) []string {
	t.Helper()
	var lines []string
	err := tree.Walk("/", func(n diskimage.Node) error {
		if n.Problem != "" {
			t.Errorf("%s: %s", n.Path, n.Problem)
		}
		if n.Partition != partition {
			t.Errorf("%s: in partition %d", n.Path, n.Partition)
		}
		line := fmt.Sprintf("%s %v %d:%d %d", strings.TrimSuffix(n.Path, "/"), n.Mode, n.UID, n.GID, n.ModTime.UnixNano())
		switch {
		case n.Mode.IsRegular():
			f, err := tree.Open(n.Path)
			if err != nil {
				return err
			}
			defer f.Close()
			sum := sha256.New()
			size, err := io.Copy(sum, f)
			if err != nil {
				return err
			}
			if size != n.Size {
				t.Errorf("%s has %d bytes, and %d were read", n.Path, n.Size, size)
			}
			line += fmt.Sprintf(" %d %d %x", n.Size, n.Links, sum.Sum(nil)[:8])
		case n.Mode&fs.ModeSymlink != 0:
			line += " -> " + n.Target
		case n.Mode&fs.ModeDevice != 0:
			line += fmt.Sprintf(" %d,%d", n.Major, n.Minor)
		}
		names := make([]string, 0, len(n.Xattrs))
		for name, value := range n.Xattrs {
			names = append(names, fmt.Sprintf("%s=%x", name, value))
		}
		slices.Sort(names)
		lines = append(lines, strings.TrimSpace(line+" "+strings.Join(names, " ")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestAsTheKernelMountsIt compares every file, mode, owner, time and content
// with what the kernel shows of the partitions.
func TestAsTheKernelMountsIt(t *testing.T) {
	testtool.NeedRoot(t)
	for name, image := range images(t) {
		t.Run(name, func(t *testing.T) {
			im := open(t, image)
			judged := 0
			for _, p := range im.Partitions() {
				if p.FileSystem != "ext4" {
					continue // mtools judges FAT: not every kernel has it
				}
				judged++
				one, err := im.Partition(p.Number)
				if err != nil {
					t.Fatal(err)
				}
				sameLines(t, "the kernel", hostText(t, mountPartition(t, image, p)), text(t, one, p.Number))
			}
			if judged == 0 {
				t.Error("nothing was judged")
			}
		})
	}
}

// mountPartition has the kernel mount a partition, read-only.
func mountPartition(t *testing.T, image string, p diskimage.Partition) string {
	t.Helper()
	dir := t.TempDir()
	testtool.Mount(t, image, dir, p.Start, p.Size, "ro", "noload")
	return dir
}

// hostText is what text gives, of a folder of the host.
func hostText(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		sys := info.Sys().(*syscall.Stat_t)
		name := strings.TrimPrefix(path, root)
		mtime := info.ModTime().UnixNano()
		line := fmt.Sprintf("%s %v %d:%d %d", name, info.Mode(), sys.Uid, sys.Gid, mtime)
		switch {
		case info.Mode().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, f); err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %d %x", info.Size(), sys.Nlink, sum.Sum(nil)[:8])
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		case info.Mode()&fs.ModeDevice != 0:
			line += fmt.Sprintf(" %d,%d", unix.Major(sys.Rdev), unix.Minor(sys.Rdev))
		}
		lines = append(lines, strings.TrimSpace(line+" "+strings.Join(xattrs(path), " ")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func xattrs(path string) []string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil
	}
	var list []string
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if name == "" || err != nil {
			continue
		}
		list = append(list, fmt.Sprintf("%s=%x", name, value[:n]))
	}
	slices.Sort(list)
	return list
}

// TestSectorsOf4096 has sfdisk partition a disk of such sectors, which takes a
// device. Opened as a device, it looks the same.
func TestSectorsOf4096(t *testing.T) {
	testtool.NeedRoot(t)
	path := blank(t, 64*mib)
	device := strings.TrimSpace(testtool.Run(t, "losetup", "--find", "--show", "--sector-size", "4096", path))
	t.Cleanup(func() { testtool.Run(t, "losetup", "--detach", device) })
	sfdisk(t, device, "label: gpt\nstart=1024, size=512, name=\"first\"\nstart=2048, size=1024, name=\"second\"\n")
	testtool.Run(t, "sync", device)
	for _, name := range []string{path, device} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		im, err := diskimage.Open(f, size)
		if err != nil {
			t.Fatal(err)
		}
		if table := im.Table(); table.Kind != diskimage.GPT || table.SectorSize != 4096 || table.Problem != "" {
			t.Errorf("%s: %+v", name, table)
		}
		var got []string
		for _, p := range im.Partitions() {
			got = append(got, fmt.Sprint(p.Number, p.Label, p.Start, p.Size, p.Problem))
		}
		if want := []string{"1first4194304 2097152", "2second8388608 4194304"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

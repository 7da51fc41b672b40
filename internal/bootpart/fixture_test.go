package bootpart_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/internal/bootpart"
	"hatchery/internal/testtool"
)

const mib = 1 << 20

var epoch = time.Date(2026, 11, 22, 10, 20, 30, 0, time.UTC)

// smallest is a size in MiB that gives a FAT32 of more than 65,525 clusters.
func smallest(perCluster int) int { return 33*perCluster + 2 }

// mkfs makes a FAT32 image of size MiB and fills it from a tree of files
// (paths to contents), with the tools of others.
func mkfs(t testing.TB, perCluster, sizeMiB int, tree map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fat.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(sizeMiB)*mib); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "mkfs.fat", "-F", "32", "-s", strconv.Itoa(perCluster), "-n", "BOOTFS", "-i", "1a2b3c4d", path)
	made := map[string]bool{}
	for name, content := range tree {
		var dir string
		parts := strings.Split(name, "/")
		for _, part := range parts[:len(parts)-1] {
			dir += "/" + part
			if !made[dir] {
				testtool.Run(t, "mmd", "-i", path, "::"+dir)
				made[dir] = true
			}
		}
		file := filepath.Join(t.TempDir(), "content")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		testtool.Run(t, "mcopy", "-i", path, file, "::/"+name)
	}
	return path
}

// raspios is the kind of tree that a boot partition holds.
func raspios() map[string]string {
	tree := map[string]string{
		"config.txt":              bookwormConfig,
		"cmdline.txt":             "console=serial0,115200 console=tty1 root=PARTUUID=1a2b3c4d-02 rootwait\n",
		"kernel.img":              strings.Repeat("kernel ", 40000),
		"bcm2708-rpi-zero-w.dtb":  strings.Repeat("dtb", 9000),
		"empty.txt":               "",
		"overlays/README":         strings.Repeat("read me\n", 300),
		"overlays/overlay_map.dt": "map",
	}
	for i := range 40 {
		tree[fmt.Sprintf("overlays/some-long-overlay-name-%02d.dtbo", i)] = strings.Repeat("o", 100*i)
	}
	return tree
}

// fsck fails the test unless fsck.vfat finds nothing at all to say.
func fsck(t testing.TB, image string) {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "fsck.vfat"), "-n", image).CombinedOutput()
	if err != nil {
		t.Fatalf("fsck.vfat -n: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "fsck.fat ") && !strings.Contains(line, " clusters") {
			t.Fatalf("fsck.vfat finds fault:\n%s", out)
		}
	}
}

// mtype reads a file with mtools.
func mtype(t testing.TB, image, name string) string {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "mtype"), "-i", image, "::/"+name).Output()
	if err != nil {
		t.Fatalf("mtype %s: %v", name, err)
	}
	return string(out)
}

// mcopyAll reads the whole tree with mtools.
func mcopyAll(t testing.TB, image string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(testtool.Need(t, "mcopy"), "-s", "-n", "-i", image, "::", dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v\n%s", err, out)
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if d.IsDir() {
			got[name] = dirMark
			return nil
		}
		b, err := os.ReadFile(path)
		got[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// dirMark stands for a directory where trees are compared as maps.
const dirMark = "\x00directory"

// tree reads the whole tree with this package.
func tree(t testing.TB, f *bootpart.FS) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := f.Walk("/", func(path string, info bootpart.Info) error {
		switch {
		case path == "/":
		case info.Dir:
			got[path[1:]] = dirMark
		default:
			b, err := f.ReadFile(path)
			if err != nil {
				return err
			}
			if int64(len(b)) != info.Size {
				return fmt.Errorf("%s: %d bytes, its size is %d", path, len(b), info.Size)
			}
			got[path[1:]] = string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func open(t testing.TB, image string) (*bootpart.FS, *os.File) {
	t.Helper()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	f, err := bootpart.Open(file, 0, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	f.SetTime(epoch)
	return f, file
}

// overlay is a device over an image that remembers what was written.
type overlay struct {
	io.ReaderAt
	sectors  map[int64][]byte
	writes   int
	failFrom int // fail from this write on; 0 never
}

func over(r io.ReaderAt) *overlay { return &overlay{ReaderAt: r, sectors: map[int64][]byte{}} }

func (o *overlay) ReadAt(b []byte, off int64) (int, error) {
	n, err := o.ReaderAt.ReadAt(b, off)
	if len(o.sectors) == 0 {
		return n, err
	}
	for at := off - off%512; at < off+int64(n); at += 512 {
		if s := o.sectors[at]; s != nil {
			if at < off {
				copy(b, s[off-at:])
			} else {
				copy(b[at-off:n], s)
			}
		}
	}
	return n, err
}

func (o *overlay) WriteAt(b []byte, off int64) (int, error) {
	if off%512 != 0 || len(b)%512 != 0 {
		return 0, fmt.Errorf("a write of %d bytes at %d is not of whole sectors", len(b), off)
	}
	o.writes++
	if o.failFrom > 0 && o.writes >= o.failFrom {
		return 0, errors.New("the device gave up")
	}
	for i := 0; i < len(b); i += 512 {
		o.sectors[off+int64(i)] = bytes.Clone(b[i : i+512])
	}
	return len(b), nil
}

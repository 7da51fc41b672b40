package ext4_test

import (
	"fmt"
	"hash/crc32"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/testtool"
)

// kernelTree is a mounted file system as the same text as tree's.
func kernelTree(t testing.TB, dir string) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(at string, _ iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := "/" + strings.TrimPrefix(strings.TrimPrefix(at, dir), "/")
		if path == "/lost+found" {
			return iofs.SkipDir
		}
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		if first[stat.Ino] == "" {
			first[stat.Ino] = path
		}
		rest := ""
		switch info.Mode().Type() {
		case 0:
			data, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			rest = contentText(data)
		case iofs.ModeSymlink:
			if rest, err = os.Readlink(at); err != nil {
				return err
			}
		case iofs.ModeDir:
		default:
			rest = fmt.Sprintf("%d,%d", unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev)))
		}
		xattrs := map[string]uint32{}
		for name, value := range kernelXattrs(t, at) {
			xattrs[name] = crc32.ChecksumIEEE(value)
		}
		mtime := time.Unix(int64(stat.Mtim.Sec), int64(stat.Mtim.Nsec))
		lines = append(lines, line(path, info.Mode(), stat.Uid, stat.Gid, mtime, int(stat.Nlink), first[stat.Ino], fmt.Sprint(rest, xattrs)))
		return nil
	})
	succeed(t, err)
	return lines
}

// kernelErrors gives what the kernel has said against ext4 file systems since
// it had said so many lines.
func kernelErrors(t testing.TB, from int) (errs []string, lines int) {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "dmesg")).Output()
	if err != nil {
		t.Logf("dmesg: %v", err)
		return nil, 0
	}
	all := strings.Split(string(out), "\n")
	for _, line := range all[min(from, len(all)):] {
		if strings.Contains(line, "EXT4-fs error") || strings.Contains(line, "EXT4-fs warning") {
			errs = append(errs, line)
		}
	}
	return errs, len(all)
}

// TestModelAndKernel has the kernel say what random operations have made,
// change it, and be told what became of that.
func TestModelAndKernel(t *testing.T) {
	testtool.NeedRoot(t)
	_, said := kernelErrors(t, 0)
	for _, name := range []string{"bookworm-4k", "trixie-4k", "buster-4k", "deb-default-4k", "deb13-default-1k", "small-inodes", "bookworm-2k", "no-flex"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ext4test.Named(t, name), 48<<20, modelSeed(t))
			for range max(modelOps(t)/10, 300) {
				w.step()
			}
			// Names and files for the kernel to work on.
			for range 8 {
				w.crowd()
			}
			w.judge(false)

			dir, unmount := ext4test.Mount(t, w.fs.path)
			if diff := difference(kernelTree(t, dir), w.want()); diff != "" {
				t.Fatalf("the kernel sees another tree:\n%s", diff)
			}
			_, _, crowd, err := w.lookup("/crowd", false)
			if err != nil || crowd == nil || len(crowd.names) < 20 {
				t.Fatalf("no crowd: %v", err)
			}
			for i := range len(crowd.names) / 2 {
				path := "/crowd/" + crowd.names[w.random.IntN(len(crowd.names))]
				succeed(t, os.RemoveAll(dir+path))
				w.remove(path, true).apply()
				path = fmt.Sprintf("/crowd/from-the-kernel-%d", i)
				succeed(t, os.Mkdir(dir+path, 0o755))
				succeed(t, os.WriteFile(dir+path+"/file", noise(uint64(i), 100*i%9000), 0o644))
				succeed(t, os.Remove(dir+path+"/file"))
				succeed(t, os.Remove(dir+path))
			}
			unmount()
			ext4test.Fsck(t, w.fs.path)

			w.fs = openEdited(t, w.fs.path)
			succeed(t, w.fs.Chtimes("/crowd", w.now))
			crowd.mtime = w.time(w.now)
			w.judge(false)
			for range 200 {
				w.step()
			}
			w.judge(true)
			dir, unmount = ext4test.Mount(t, w.fs.path)
			if diff := difference(kernelTree(t, dir), w.want()); diff != "" {
				t.Fatalf("after its own changes the kernel sees another tree:\n%s", diff)
			}
			unmount()
		})
	}
	if errs, _ := kernelErrors(t, said); len(errs) > 0 {
		t.Errorf("the kernel complained:\n%s", strings.Join(errs, "\n"))
	}
}

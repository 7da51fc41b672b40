package ext4_test

import (
	"bytes"
	"cmp"
	"fmt"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	diskfs "github.com/diskfs/go-diskfs/filesystem/ext4"

	"hatchery/internal/ext4/ext4test"
)

// diskfsTree is a file system as go-diskfs reads it: path, permissions, and
// content, target or attributes. It panics on what it cannot read.
func diskfsTree(fs *diskfs.FileSystem) (lines []string, err error) {
	within := func(p string) string { return cmp.Or(strings.TrimPrefix(p, "/"), ".") }
	var walk func(dir string) error
	walk = func(dir string) error {
		entries, err := fs.ReadDir(within(dir))
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		for _, e := range entries {
			p := path.Join(dir, e.Name())
			if e.Name() == "." || e.Name() == ".." || p == "/lost+found" {
				continue
			}
			info, err := fs.Stat(within(p)) // of a link, of the link
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			text := ""
			switch {
			case e.IsDir():
				if err := walk(p); err != nil {
					return err
				}
			case e.Type() == iofs.ModeSymlink:
				if text, err = fs.ReadLink(within(p)); err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
			default:
				data, err := fs.ReadFile(within(p))
				if err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
				xattrs, err := fs.GetXattr(within(p))
				if err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
				text = fmt.Sprintf("%s %x", contentText(data), xattrs)
			}
			lines = append(lines, fmt.Sprintf("%s %v %s", p, info.Mode().Perm(), text))
		}
		return nil
	}
	err = walk("/")
	slices.Sort(lines)
	return lines, err
}

// TestDiskfsReads has another reader say what is in a file system that was
// edited here. Kept from it is what it cannot read: sparse and fragmented
// files, names of 248 bytes and more, file systems without checksums.
func TestDiskfsReads(t *testing.T) {
	for _, name := range []string{"bookworm-4k", "trixie-4k", "deb-default-4k", "deb13-default-4k"} {
		t.Run(name, func(t *testing.T) {
			fs := newEdited(t, ext4test.Named(t, name), 64<<20)
			var want []string
			add := func(p string, mode iofs.FileMode, text string) {
				want = append(want, fmt.Sprintf("%s %v %s", p, mode, text))
			}
			write := func(p string, mode iofs.FileMode, data []byte, xattrs map[string][]byte) {
				succeed(t, fs.Create(p, bytes.NewReader(data), attr(mode)))
				for name, value := range xattrs {
					succeed(t, fs.SetXattr(p, name, value))
				}
				if xattrs == nil {
					xattrs = map[string][]byte{}
				}
				add(p, mode, fmt.Sprintf("%s %x", contentText(data), xattrs))
			}
			succeed(t, fs.MkdirAll("/usr/lib", attr(0o755)))
			add("/usr", 0o755, "")
			add("/usr/lib", 0o755, "")
			succeed(t, fs.Mkdir("/crowd", attr(0o711)))
			add("/crowd", 0o711, "")
			write("/usr/lib/empty", 0o600, nil, nil)
			write("/usr/lib/large", 0o644, noise(1, 3_000_001), nil)
			write("/ping", 0o755, noise(2, 90_000), map[string][]byte{"security.capability": pingCapability, "user.a": []byte("a")})
			write("/blocked", 0o644, noise(3, 4096), map[string][]byte{"user.big": noise(4, 1000)})
			for i := range 500 {
				write(fmt.Sprintf("/crowd/%d-größe%s", i, strings.Repeat("n", i%200)), 0o640, noise(uint64(i), i), nil)
			}
			for i := 0; i < 500; i += 3 {
				succeed(t, fs.Remove(fmt.Sprintf("/crowd/%d-größe%s", i, strings.Repeat("n", i%200))))
				want = slices.DeleteFunc(want, func(line string) bool { return strings.HasPrefix(line, fmt.Sprintf("/crowd/%d-", i)) })
			}
			for p, target := range map[string]string{"/short": "usr/lib", "/long": strings.Repeat("./", 100) + "usr"} {
				succeed(t, fs.Symlink(target, p, attr(0)))
				add(p, 0o777, target)
			}
			succeed(t, fs.Rename("/usr/lib/large", "/moved"))
			for i, line := range want {
				want[i] = strings.Replace(line, "/usr/lib/large ", "/moved ", 1)
			}
			succeed(t, fs.Grow(64<<20)) // no change
			fs.flush()
			slices.Sort(want)

			type result struct {
				lines []string
				err   error
			}
			done := make(chan result, 1)
			go func() {
				defer func() {
					if r := recover(); r != nil {
						done <- result{err: fmt.Errorf("panic: %v", r)}
					}
				}()
				other, err := diskfs.Read(file.New(fs.f, true), 64<<20, 0, 512)
				if err != nil {
					done <- result{err: err}
					return
				}
				lines, err := diskfsTree(other)
				done <- result{lines, err}
			}()
			select {
			case got := <-done:
				succeed(t, got.err)
				if diff := difference(got.lines, want); diff != "" {
					t.Errorf("go-diskfs reads another tree:\n%s", diff)
				}
			case <-time.After(2 * time.Minute):
				t.Fatal("go-diskfs does not come to an end")
			}
		})
	}
}

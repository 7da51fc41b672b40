package ext4_test

import (
	"bytes"
	iofs "io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"hatchery/internal/ext4/ext4test"
)

func TestIOFS(t *testing.T) {
	for _, v := range ext4test.Releases(t) {
		t.Run(v.Name, func(t *testing.T) {
			fs := newEdited(t, v, 16<<20)
			succeed(t, fs.MkdirAll("usr/bin", attr(0o755)))
			succeed(t, fs.Symlink("usr/bin", "bin", attr(0)))
			succeed(t, fs.Symlink("/usr/bin/tool", "tool", attr(0)))
			succeed(t, fs.Create("usr/bin/tool", bytes.NewReader(noise(3, 9_000)), attr(0o755)))
			fs.create("hello", "world")
			succeed(t, fs.Mknod("null", attr(0o666|iofs.ModeDevice|iofs.ModeCharDevice), 1, 3))
			succeed(t, fs.Remove("null")) // TestFS wants to open whatever is there
			fs.flush()
			tree := fs.reopened().IOFS()
			if err := fstest.TestFS(tree, "hello", "usr/bin/tool", "bin", "tool"); err != nil {
				t.Fatal(err)
			}
			got, err := iofs.ReadFile(tree, "bin/tool")
			if err != nil || !bytes.Equal(got, noise(3, 9_000)) {
				t.Errorf("through a symlink: %d bytes, %v", len(got), err)
			}
			var names []string
			succeed(t, iofs.WalkDir(tree, ".", func(path string, _ iofs.DirEntry, err error) error {
				names = append(names, path)
				return err
			}))
			if got, want := strings.Join(names, " "), ". bin hello lost+found tool usr usr/bin usr/bin/tool"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

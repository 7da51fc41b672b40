package ext4_test

import (
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/ext4"
	"hatchery/internal/testtool"
)

// TestReadNodes compares a directory's nodes with what is said of each name by
// itself.
func TestReadNodes(t *testing.T) {
	mke2fs, debugfs := testtool.Need(t, "mke2fs"), testtool.Need(t, "debugfs")
	dir := t.TempDir()
	for name, content := range map[string]string{"file": "text", "empty": "", "marked": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "folder", "below"), 0o750); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "fs")
	testtool.Run(t, mke2fs, "-q", "-t", "ext4", "-d", dir, image, "8M")
	for _, command := range []string{"ea_set /marked user.one 1", "ea_set /marked user.two 22", "mknod device c 4 64", "ln /file /folder/second", "sif /file links_count 2"} {
		testtool.Run(t, debugfs, "-w", "-R", command, image)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := ext4.OpenReadOnly(f, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, folder := range []string{"/", "/folder", "/folder/below"} {
		nodes, err := fsys.ReadNodes(folder)
		if err != nil {
			t.Fatal(err)
		}
		list, err := fsys.ReadDir(folder)
		if err != nil || len(list) != len(nodes) {
			t.Fatalf("%s: %d nodes of %d names, %v", folder, len(nodes), len(list), err)
		}
		for i, n := range nodes {
			p := path.Join(folder, list[i].Name)
			want := ext4.Node{}
			if want.Info, err = fsys.Lstat(p); err != nil {
				t.Fatal(err)
			}
			if list[i].Name == "link" {
				want.Target = "file"
			}
			attrs, err := fsys.Xattrs(p)
			if err != nil {
				t.Fatal(err)
			}
			if len(attrs) > 0 {
				want.Xattrs = attrs
				seen += len(attrs)
			}
			if diff := cmp.Diff(want, n); diff != "" {
				t.Errorf("%s:\n%s", p, diff)
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d attributes were seen, want 2", seen)
	}
	if _, err := fsys.ReadNodes("/file"); err == nil {
		t.Error("a file has no nodes")
	}
}

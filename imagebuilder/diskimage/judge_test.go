package diskimage_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/testtool"
)

// sameLines compares two sorted lists, and shows the first few differences.
func sameLines(t *testing.T, judge string, want, got []string) {
	t.Helper()
	slices.Sort(want)
	slices.Sort(got)
	if slices.Equal(want, got) {
		return
	}
	diff := cmp.Diff(want, got)
	t.Errorf("%s (-) sees otherwise (+):\n%s", judge, diff[:min(len(diff), 4000)])
}

// TestAsMtoolsReadsIt compares FATs of each width with what mcopy copies out
// of them.
func TestAsMtoolsReadsIt(t *testing.T) {
	for _, test := range []struct {
		bits    string
		size    int64
		cluster string
	}{{"12", 7 * mib, "4"}, {"12", 16 * mib, "16"}, {"16", 24 * mib, "1"}, {"16", 40 * mib, "8"}, {"32", 40 * mib, "1"}} {
		t.Run("FAT"+test.bits+" with clusters of "+test.cluster, func(t *testing.T) {
			path := blank(t, test.size)
			testtool.Run(t, "mkfs.fat", "-F", test.bits, "-s", test.cluster, "-n", "TESTED", path)
			content := t.TempDir()
			for i := range 120 {
				name := fmt.Sprintf("File number %d with a long nÄme.txt", i)
				if i%3 == 0 {
					name = fmt.Sprintf("short%d.txt", i)
				}
				if err := os.WriteFile(filepath.Join(content, name), []byte(strings.Repeat(fmt.Sprintf("line %d\n", i), i*20)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			testtool.Run(t, "mmd", "-i", path, "::/One Folder", "::/one", "::/one/two", "::/one/two/three")
			for _, dir := range []string{"::/", "::/One Folder", "::/one/two/three"} {
				testtool.Run(t, "sh", "-c", `exec "$0" -s -i "$1" "$2"/* "$3"`, testtool.Need(t, "mcopy"), path, content, dir)
			}
			// Holes between files, filled again: what comes now lies in pieces.
			for i := range 40 {
				testtool.Run(t, "mdel", "-i", path, fmt.Sprintf("::/one/two/three/short%d.txt", i*3))
			}
			if err := os.WriteFile(filepath.Join(content, "pieces"), []byte(strings.Repeat("piece by piece ", 20_000)), 0o644); err != nil {
				t.Fatal(err)
			}
			testtool.Run(t, "mcopy", "-i", path, filepath.Join(content, "pieces"), "::/one/two/pieces")
			out := t.TempDir()
			testtool.Run(t, "mcopy", "-s", "-i", path, "::/", out)
			if entries, _ := os.ReadDir(out); len(entries) == 1 && entries[0].IsDir() {
				out = filepath.Join(out, entries[0].Name())
			}

			im := open(t, path)
			p := im.Partitions()[0]
			if !slices.Equal(p.Features, []string{"FAT" + test.bits}) || p.FSLabel != "TESTED" || p.Problem != "" {
				t.Errorf("%+v", p)
			}
			tree := assembled(t, im)
			var want, got []string
			filepath.WalkDir(out, func(path string, e fs.DirEntry, err error) error {
				data, _ := os.ReadFile(path)
				want = append(want, fmt.Sprintf("%s %v %x", strings.TrimPrefix(path, out), e.IsDir(), sha256.Sum256(data)))
				return err
			})
			tree.Walk("/", func(n diskimage.Node) error {
				var data []byte
				if !n.IsDir() {
					var err error
					if data, err = diskimage.ReadFile(tree, n.Path, 10*mib); err != nil {
						t.Error(err)
					}
				}
				got = append(got, fmt.Sprintf("%s %v %x", strings.TrimSuffix(n.Path, "/"), n.IsDir(), sha256.Sum256(data)))
				return nil
			})
			sameLines(t, "mtools", want, got)
			if len(got) < 300 {
				t.Errorf("only %d files", len(got))
			}
			// Case does not count, and 8.3 names do.
			for _, name := range []string{"/ONE/two/THREE", "/one/TWO/Pieces", "/FILENU~1.TXT"} {
				if _, err := tree.Lstat(name); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

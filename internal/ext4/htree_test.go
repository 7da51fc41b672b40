package ext4_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/testtool"
)

// isIndexed asks debugfs for a directory's flags.
func isIndexed(t testing.TB, path, dir string) bool {
	t.Helper()
	out := ext4test.Debugfs(t, path, false, "stat "+dir)
	var flags uint32
	_, after, _ := strings.Cut(out, "Flags: ")
	if _, err := fmt.Sscanf(after, "%v", &flags); err != nil {
		t.Fatalf("debugfs stat %s: no flags in %q", dir, out)
	}
	return flags&0x1000 != 0
}

// indexLevels asks debugfs how many levels of nodes a directory's index has.
func indexLevels(t testing.TB, path, dir string) int {
	t.Helper()
	// Without metadata_csum debugfs complains that there is no checksum.
	out, err := exec.Command(testtool.Need(t, "debugfs"), "-R", "htree_dump "+dir, path).Output()
	succeed(t, err)
	_, after, found := strings.Cut(string(out), "Indirect levels: ")
	var levels int
	if _, err := fmt.Sscan(after, &levels); err != nil || !found {
		t.Fatalf("debugfs htree_dump %s: %q", dir, out)
	}
	return levels
}

// manyNames gives n different names: short, long, and in several scripts.
func manyNames(n int, random *rand.Rand) []string {
	names := make([]string, n)
	for i := range names {
		switch random.IntN(4) {
		case 0:
			names[i] = fmt.Sprintf("%d", i)
		case 1:
			names[i] = fmt.Sprintf("lib%d-%s", i, strings.Repeat("x", random.IntN(40)))
		case 2:
			names[i] = fmt.Sprintf("größe-%d-日本語😀", i)
		case 3:
			names[i] = fmt.Sprintf("%d%s", i, strings.Repeat("long", random.IntN(60)))
		}
	}
	return names
}

// TestNewDirectoryIsIndexed fills a directory from nothing, name by name, and
// empties it again.
func TestNewDirectoryIsIndexed(t *testing.T) {
	for _, variant := range ext4test.Variants() {
		t.Run(variant.Name, func(t *testing.T) {
			t.Parallel()
			img := newEdited(t, variant, 32<<20)
			succeed(t, img.Mkdir("/d", attr(0o755)))
			img.create("/f", "x")
			random := rand.New(rand.NewPCG(1, uint64(variant.BlockSize)))
			names := manyNames(4000, random)
			checks := map[int]bool{1: true, 10: true, 20: true, 50: true, 100: true, 400: true, 1500: true, len(names): true}
			for i, name := range names {
				succeed(t, img.Link("/f", "/d/"+name))
				if checks[i+1] {
					img.flush()
				}
			}
			wantIndex := variant.Name != "no-dir-index"
			if got := isIndexed(t, img.path, "/d"); got != wantIndex {
				t.Errorf("indexed: %v", got)
			}
			if wantIndex && variant.BlockSize == 1024 {
				if levels := indexLevels(t, img.path, "/d"); levels != 1 {
					t.Errorf("the index has %d levels of nodes, want 1", levels)
				}
			}
			img = openEdited(t, img.path)
			entries, err := img.ReadDir("/d")
			succeed(t, err)
			if len(entries) != len(names) {
				t.Fatalf("%d names, want %d", len(entries), len(names))
			}
			random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			for i, name := range names {
				succeed(t, img.Remove("/d/"+name))
				if i%1000 == 0 {
					img.flush()
				}
			}
			img.flush()
			for _, name := range names[:1000] {
				succeed(t, img.Link("/f", "/d/"+name))
			}
			img.flush()
			if got := img.Deindexed(); len(got) != 0 {
				t.Errorf("lost their index: %q", got)
			}
		})
	}
}

// TestKernelFindsNames has the kernel look up every name by its hash, and
// change what was made here.
func TestKernelFindsNames(t *testing.T) {
	for _, variant := range []ext4test.Variant{
		ext4test.Named(t, "bookworm-4k"), ext4test.Named(t, "trixie-1k"), ext4test.Named(t, "buster-2k"), ext4test.Named(t, "deb13-default-4k"),
	} {
		t.Run(variant.Name, func(t *testing.T) {
			img := newEdited(t, variant, 48<<20)
			random := rand.New(rand.NewPCG(5, uint64(variant.BlockSize)))
			names := manyNames(6000, random)
			succeed(t, img.Mkdir("/d", attr(0o755)))
			img.create("/f", "x")
			for _, name := range names[:3000] {
				succeed(t, img.Link("/f", "/d/"+name))
			}
			img.flush()

			// The kernel: every name is there, 1,000 go, 2,000 come.
			dir, unmount := ext4test.Mount(t, img.path)
			for _, name := range names[:3000] {
				if _, err := os.Lstat(filepath.Join(dir, "d", name)); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range names[:1000] {
				succeed(t, os.Remove(filepath.Join(dir, "d", name)))
			}
			for _, name := range names[3000:5000] {
				succeed(t, os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "d", name)))
			}
			succeed(t, os.Mkdir(filepath.Join(dir, "k"), 0o755))
			for _, name := range names[:2000] {
				succeed(t, os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "k", name)))
			}
			unmount()
			ext4test.Fsck(t, img.path)

			// Here again: directories the kernel made or changed.
			img = openEdited(t, img.path)
			for _, name := range names[5000:] {
				succeed(t, img.Link("/f", "/d/"+name))
			}
			for _, name := range names[2000:] {
				succeed(t, img.Link("/f", "/k/"+name))
			}
			for _, name := range names[1000:2000] {
				succeed(t, img.Remove("/d/"+name))
				succeed(t, img.Remove("/k/"+name))
			}
			img.flush()
			for _, d := range []string{"/d", "/k"} {
				if !isIndexed(t, img.path, d) {
					t.Errorf("%s has lost its index", d)
				}
			}
			dir, unmount = ext4test.Mount(t, img.path)
			for i, name := range names {
				for d, want := range map[string]bool{"d": i >= 2000, "k": i < 1000 || i >= 2000} {
					if _, err := os.Lstat(filepath.Join(dir, d, name)); (err == nil) != want {
						t.Fatalf("%s/%s: %v", d, name, err)
					}
				}
			}
			unmount()
			ext4test.Fsck(t, img.path)
		})
	}
}

// TestOtherHashes makes indexes with the hashes that are not mke2fs's default.
func TestOtherHashes(t *testing.T) {
	for _, hash := range []string{"legacy", "tea", "half_md4"} {
		for _, unsigned := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,unsigned=%v", hash, unsigned), func(t *testing.T) {
				path := ext4test.Make(t, ext4test.Named(t, "bookworm-1k"), 16<<20)
				ext4test.Debugfs(t, path, true, "ssv def_hash_version "+hash)
				flags := 1
				if unsigned {
					flags = 2
				}
				ext4test.Debugfs(t, path, true, fmt.Sprintf("ssv flags %d", flags))
				img := openEdited(t, path)
				succeed(t, img.Mkdir("/d", attr(0o755)))
				img.create("/f", "x")
				for _, name := range manyNames(1500, rand.New(rand.NewPCG(1, 1))) {
					succeed(t, img.Link("/f", "/d/"+name))
				}
				img.flush()
				if !isIndexed(t, path, "/d") {
					t.Error("not indexed")
				}
			})
		}
	}
}

// TestCollidingNames adds names that all have the same legacy hash, 0x2468acf0,
// and together fill more than one leaf.
func TestCollidingNames(t *testing.T) {
	var names []string
	for _, n := range [][2]string{
		{"kpmb", "HbM"}, {"jedd", "jRN"}, {"jpde", "UGr"}, {"hjne", "6jA"}, {"elih", "YUC"}, {"njmk", "G?F"},
		{"kkdl", "<f]"}, {"ebel", "Tb8"}, {"boao", "iRE"}, {"kojp", "ZvS"}, {"gbop", "Rhr"}, {"ebpp", "QPN"},
	} {
		names = append(names, strings.Repeat(n[0], 62)[:247]+n[1])
	}
	others := manyNames(200, rand.New(rand.NewPCG(7, 7)))
	path := ext4test.Make(t, ext4test.Named(t, "bookworm-1k"), 16<<20)
	ext4test.Debugfs(t, path, true, "ssv def_hash_version legacy")
	for _, name := range names {
		if out := ext4test.Debugfs(t, path, false, fmt.Sprintf("dx_hash -h legacy %q", name)); !strings.Contains(out, "0x2468acf0") {
			t.Fatalf("not such a name: %s", out)
		}
	}
	img := openEdited(t, path)
	img.create("/f", "x")
	succeed(t, img.Mkdir("/d", attr(0o755)))
	for i, name := range others {
		succeed(t, img.Link("/f", "/d/"+name))
		if i%10 == 9 && i/10 < len(names) {
			succeed(t, img.Link("/f", "/d/"+names[i/10]))
			img.flush()
		}
	}
	img.flush()
	dir, unmount := ext4test.Mount(t, path)
	for _, name := range append(names, others...) {
		if _, err := os.Lstat(filepath.Join(dir, "d", name)); err != nil {
			t.Error(err)
		}
	}
	unmount()
}

package diskimage_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// TestFoldersInACircle are seen once, and the rest of the tree with them.
func TestFoldersInACircle(t *testing.T) {
	image := imagetest.Bookworm(t, imagetest.WithDir("/srv/a/b", 0o755, 0, 0), imagetest.WithFile("/srv/z", "z", 0o644, 0, 0))
	debugfs(t, image, "link /srv/a /srv/a/b/again", "link / /srv/a/root")
	tree := assembled(t, open(t, image))
	visited := map[string]string{}
	if err := tree.Walk("/srv", func(n diskimage.Node) error {
		visited[n.Path] = n.Problem
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(visited) > 1000 {
		t.Errorf("%d visited", len(visited))
	}
	if !strings.Contains(visited["/srv/a/b/again"], "held by two others") {
		t.Errorf("the circle is not told: %q", visited["/srv/a/b/again"])
	}
	if _, ok := visited["/srv/z"]; !ok {
		t.Error("what comes behind it is not seen")
	}
	if _, err := diskimage.Extract(t.Context(), tree, "/srv", filepath.Join(t.TempDir(), "out"), diskimage.ExtractOptions{}); err != nil {
		t.Error(err)
	}
}

// TestDamagedInodes are shown with what is wrong, beside the others.
func TestDamagedInodes(t *testing.T) {
	image := imagetest.Bookworm(t, imagetest.WithFile("/srv/bad", "content", 0o644, 0, 0), imagetest.WithFile("/srv/good", "content", 0o644, 0, 0))
	debugfs(t, image, "sif /srv/bad flags 0x10080000") // inline_data
	tree := assembled(t, open(t, image))
	nodes, err := tree.ReadDir("/srv")
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 || !strings.Contains(nodes[0].Problem, "inline_data") || !nodes[0].Mode.IsRegular() || nodes[1].Problem != "" {
		t.Errorf("%+v", nodes)
	}
	result, err := diskimage.Extract(t.Context(), tree, "/srv", filepath.Join(t.TempDir(), "out"), diskimage.ExtractOptions{})
	if err != nil || result.Files != 1 || len(result.Skipped) != 1 {
		t.Errorf("%+v, %v", result, err)
	}
}

// smallFAT makes a FAT16 with a few files, in memory.
func smallFAT(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fat")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	truncate(t, path, mib)
	testtool.Run(t, "mkfs.fat", "-F", "12", "-s", "1", path)
	file := filepath.Join(t.TempDir(), "a long name.txt")
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 3000), 0o600); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, "mmd", "-i", path, "::/d", "::/d/e")
	testtool.Run(t, "mcopy", "-i", path, file, "::/")
	testtool.Run(t, "mcopy", "-i", path, file, "::/d/e/")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestHostileFAT breaks a FAT in the ways that lead readers astray.
func TestHostileFAT(t *testing.T) {
	fat := int(512) // one reserved sector
	entry := func(d []byte, cluster int, value uint16) {
		at := fat + cluster*3/2
		v := binary.LittleEndian.Uint16(d[at:])
		if cluster%2 == 0 {
			v = v&0xf000 | value
		} else {
			v = v&0x000f | value<<4
		}
		binary.LittleEndian.PutUint16(d[at:], v)
	}
	slot := func(d []byte, name string) []byte { return d[bytes.Index(d, []byte(name)):] }
	for _, test := range []struct {
		summary string
		mutate  func(d []byte)
		says    string // of a file or folder
	}{
		{"untouched", func(d []byte) {}, ""},
		{"a folder's chain goes round", func(d []byte) { entry(d, 2, 2) }, "round in circles"},
		{"a folder's chain leads out", func(d []byte) { entry(d, 2, 0xfe0) }, "leads to"},
		{"a folder at no cluster", func(d []byte) { slot(d, "D          ")[26] = 0 }, "held by two others"},
		{"a folder that is its parent's", func(d []byte) { slot(d, "E          ")[26] = 2 }, "held by two others"},
		{"a file that is larger than the file system", func(d []byte) { copy(slot(d, "ALONGN~1TXT")[28:], "\xff\xff\xff\xff") }, "in a file system of"},
		{"a file that is longer than its chain", func(d []byte) { copy(slot(d, "ALONGN~1TXT")[28:], "\xff\xff\x00\x00") }, "leads to"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			data := smallFAT(t)
			test.mutate(data)
			said := readAll(t, data)
			if test.says == "" && said != "" || !strings.Contains(said, test.says) {
				t.Errorf("it says %q, want %q", said, test.says)
			}
		})
	}
}

// readAll opens an image and reads everything in it, and gives all that is
// said to be wrong. Nothing takes more than its share.
func readAll(t testing.TB, data []byte) string {
	im, err := diskimage.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		if len(data) > 0 {
			t.Fatalf("a reader that cannot fail: %v", err)
		}
		return err.Error()
	}
	var said strings.Builder
	im.Release()
	im.BootPath()
	trees := []diskimage.Tree{}
	if tree, err := im.Tree(); err == nil {
		trees = append(trees, tree)
		if _, err := diskimage.FindPrivate(t.Context(), tree); err != nil {
			t.Fatal(err)
		}
	}
	if len(im.Partitions()) > 2000 {
		t.Fatalf("%d partitions", len(im.Partitions()))
	}
	for _, p := range im.Partitions() {
		said.WriteString(p.Problem)
		if tree, err := im.Partition(p.Number); err == nil {
			trees = append(trees, tree)
		}
	}
	for _, tree := range trees[:min(len(trees), 8)] {
		files := 0
		err := tree.Walk("/", func(n diskimage.Node) error {
			said.WriteString(n.Problem)
			if files++; files > 20_000 {
				return fs.SkipAll
			}
			if !strings.HasPrefix(n.Path, "/") || strings.Contains(n.Path, "//") || strings.Contains(n.Path+"/", "/../") {
				t.Fatalf("a path %q", n.Path)
			}
			if n.Problem != "" || files > 200 {
				return nil
			}
			if again, err := tree.Lstat(n.Path); err == nil && again.Inode != n.Inode && again.Partition == n.Partition {
				t.Fatalf("%s is inode %d, and then %d", n.Path, n.Inode, again.Inode)
			}
			if !n.Mode.IsRegular() {
				return nil
			}
			f, err := tree.Open(n.Path)
			if err != nil {
				said.WriteString(err.Error())
				return nil
			}
			defer f.Close()
			if _, err := io.Copy(io.Discard, io.LimitReader(f, 4*mib)); err != nil {
				said.WriteString(err.Error())
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			said.WriteString(err.Error())
		}
	}
	return said.String()
}

// small makes a small partitioned image with a FAT and an ext4, for mutations.
func small(t testing.TB, table string) []byte {
	t.Helper()
	path := blank(t, 4*mib)
	sfdisk(t, path, table)
	fat := filepath.Join(t.TempDir(), "fat")
	data := smallFAT(t)
	if err := os.WriteFile(fat, data, 0o600); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	v := ext4test.Named(t, "bookworm-1k")
	v.Features += ",^has_journal,^metadata_csum"
	ext4test.MakeAt(t, root, v, mib)
	for _, c := range []string{"mkdir /etc", "mkdir /boot", "symlink /l /etc/../boot", "symlink /etc/os-release ../l/x"} {
		ext4test.Debugfs(t, root, true, c)
	}
	insert(t, path, fat, 2048*512)
	insert(t, path, root, 4096*512)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

const (
	smallMBR = "label: dos\nlabel-id: 0x5e7a11d0\nstart=2048, size=2048, type=e\nstart=4096, size=2048, type=83\n"
	smallGPT = "label: gpt\nlabel-id: 0B8D10F2-4DA1-4A31-A1B9-0D3C9B7F9A11\nstart=2048, size=2048\nstart=4096, size=2048\n"
)

// FuzzOpen changes bytes of small images, at four places at once.
func FuzzOpen(f *testing.F) {
	images := [][]byte{
		small(f, smallMBR), small(f, smallGPT), smallFAT(f),
		small(f, "label: dos\nlabel-id: 0x1\nstart=2048, size=6000, type=5\nNODE5 : start=2100, size=1000, type=83\nNODE6 : start=4096, size=2048, type=83\n"),
	}
	seed := func(which byte, at ...uint32) {
		var places []byte
		for i, a := range at {
			places = binary.LittleEndian.AppendUint32(places, a)
			places = append(places, byte(i*77+1))
		}
		f.Add(which, places)
	}
	seed(0)
	seed(1)
	seed(2)
	seed(3)
	seed(0, 446+8, 510, 450, 462)
	seed(1, 512+72, 512+80, 512+84, 1024+32)
	seed(2, 11, 13, 14, 17)
	seed(2, 22, 512, 513, 515)
	seed(3, 2048*512+446+8, 2048*512+446+16+8)
	seed(0, 4096*512+1024+0x18, 4096*512+1024+0x28, 4096*512+1024+0x58)
	f.Fuzz(func(t *testing.T, which byte, places []byte) {
		image := bytes.Clone(images[int(which)%len(images)])
		for ; len(places) >= 5; places = places[5:] {
			image[int(binary.LittleEndian.Uint32(places))%len(image)] = places[4]
		}
		readAll(t, image)
	})
}

// FuzzBytes opens whatever there is.
func FuzzBytes(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("<html>"))
	for _, data := range [][]byte{small(f, smallMBR), small(f, smallGPT), smallFAT(f)} {
		f.Add(data[:8192])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		readAll(t, data)
		readAll(t, append(bytes.Clone(data), make([]byte, 70_000)...))
	})
}

// FuzzPaths has a tree resolve whatever is asked for.
func FuzzPaths(f *testing.F) {
	data := small(f, smallMBR)
	im, err := diskimage.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		f.Fatal(err)
	}
	tree, err := im.Tree()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"/", "", "..", "/l", "/l/", "/etc/os-release", "/l/../etc/../l/.", "/boot/D/e/ALONGN~1.TXT", "//etc//", "/\x00", strings.Repeat("/l", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		first, err1 := tree.Lstat(path)
		second, err2 := tree.Lstat(path) // by what was remembered
		if first.Path != second.Path || (err1 == nil) != (err2 == nil) {
			t.Fatalf("%q is %q (%v), and then %q (%v)", path, first.Path, err1, second.Path, err2)
		}
		if err1 != nil {
			return
		}
		again, err := tree.Lstat(first.Path)
		if err != nil || again.Path != first.Path || again.Inode != first.Inode {
			t.Fatalf("%q is %q, which is %q (%v)", path, first.Path, again.Path, err)
		}
		diskimage.Stat(tree, path)
		diskimage.Private(path)
	})
}

package imagefile_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hatchery/imagebuilder/blockmap"
	"hatchery/imagebuilder/imagefile"
	"hatchery/internal/bmap"
	"hatchery/internal/testtool"
)

func TestRawWithOwnMap(t *testing.T) {
	image, content := miniature(t)
	m := ownMap(t, content, image+".bmap")
	s := open(t, image, imagefile.Options{})
	if s.Name() != "p1.img" || s.BlockMap() != image+".bmap" || len(s.Warnings()) != 0 {
		t.Errorf("%s with %s, warnings %q", s.Name(), s.BlockMap(), s.Warnings())
	}
	if fmt.Sprint(s.Map()) != fmt.Sprint(m) {
		t.Error("the map is not taken as it is")
	}
	sameAs(t, s, content)
	r, ok := s.(io.ReaderAt)
	if !ok {
		t.Fatal("it cannot be read anywhere")
	}
	p := make([]byte, 5000)
	_, err := r.ReadAt(p, 123)
	succeed(t, err)
	if !bytes.Equal(p, content[123:5123]) {
		t.Error("it reads as something else")
	}
}

func TestRawWithoutMap(t *testing.T) {
	image, content := miniature(t)
	ownMap(t, content, image+".bmap")
	s := open(t, image, imagefile.Options{NoBlockMap: true})
	want, err := blockmap.Mapped(disk(content), int64(len(content)))
	succeed(t, err)
	var text strings.Builder
	for _, e := range want {
		fmt.Fprintf(&text, "%d-%d\n", e.Offset/4096, (e.Offset+e.Length-1)/4096)
	}
	if got := blocks(s.Map()); got != text.String() {
		t.Errorf("mapped:\n%swanted:\n%s", got, text.String())
	}
	if s.BlockMap() != "" || checksums(s.Map()) != 0 || !readerAt(s) {
		t.Errorf("map %q, %d checksums, read anywhere: %v", s.BlockMap(), checksums(s.Map()), readerAt(s))
	}
	sameAs(t, s, content)
}

// TestBmaptool holds what is given of an image with bmaptool's map against
// what bmaptool copies.
func TestBmaptool(t *testing.T) {
	image, content := miniature(t)
	m := theirMap(t, image, image+".bmap")
	s := open(t, image, imagefile.Options{})
	if blocks(s.Map()) != blocks(m) {
		t.Error("something else is mapped")
	}
	if readerAt(s) {
		t.Error("it can be read without the long ranges' checksums")
	}
	sameAs(t, s, content)

	copied := filepath.Join(t.TempDir(), "card")
	testtool.Run(t, "bmaptool", "copy", "--bmap", image+".bmap", image, copied)
	theirs, err := os.ReadFile(copied)
	succeed(t, err)
	ours := make([]byte, len(content))
	got, err := taken(t, s, all(s.Map()))
	succeed(t, err)
	for i, p := range got {
		off, _ := s.Map().Bytes(s.Map().Ranges[i])
		copy(ours[off:], p)
	}
	if !bytes.Equal(ours, theirs) {
		t.Error("bmaptool copies something else")
	}
}

// foreign are maps of an image that others make.
func foreign(t *testing.T, image string, content []byte) map[string]string {
	t.Helper()
	dir := t.TempDir()
	size := int64(len(content))
	maps := map[string]string{}
	put := func(name, text string) {
		maps[name] = filepath.Join(dir, name+".bmap")
		succeed(t, os.WriteFile(maps[name], []byte(text), 0o600))
	}
	ranges := []bmap.Range{{First: 0, Last: 0}, {First: 3, Last: 700}, {First: 1024, Last: size / 4096}}
	var sums []string
	for _, r := range ranges {
		sum := sha1.Sum(content[r.First*4096 : min(size, (r.Last+1)*4096)])
		sums = append(sums, hex.EncodeToString(sum[:]))
	}
	put("version 1.2", oldMap("1.2", size, ranges, sums))
	put("version 1.0", oldMap("1.0", size, ranges, nil))
	for _, kind := range []string{"sha1", "sha512"} {
		maps[kind] = filepath.Join(dir, kind+".bmap")
		m := &bmap.Map{ImageSize: size, BlockSize: 4096, ChecksumType: kind}
		for _, r := range ranges {
			r.Checksum = sumOf(t, kind, content[r.First*4096:min(size, (r.Last+1)*4096)])
			m.Ranges = append(m.Ranges, r)
		}
		var text bytes.Buffer
		succeed(t, m.Write(&text))
		put(kind, text.String())
	}
	maps["bmaptool's"] = filepath.Join(dir, "theirs.bmap")
	theirMap(t, image, maps["bmaptool's"])
	return maps
}

// sumOf is a checksum as a tool of coreutils computes it.
func sumOf(t *testing.T, kind string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "range")
	succeed(t, os.WriteFile(path, content, 0o600))
	sum, _, _ := strings.Cut(testtool.Run(t, kind+"sum", path), " ")
	return sum
}

func TestForeignMaps(t *testing.T) {
	image, content := small(t)
	for summary, path := range foreign(t, image, content) {
		t.Run(summary, func(t *testing.T) {
			m := parse(t, path)
			s := open(t, image, imagefile.Options{BlockMap: path})
			if blocks(s.Map()) != blocks(m) || s.BlockMap() != path {
				t.Error("something else is mapped")
			}
			sameAs(t, s, content)
			none := summary == "version 1.0"
			if readerAt(s) != none || (len(s.Warnings()) == 1) != none {
				t.Errorf("read anywhere: %v, warnings %q", readerAt(s), s.Warnings())
			}
			if none {
				return
			}

			// A byte in the midst of the longest range.
			r := m.Ranges[0]
			for _, other := range m.Ranges {
				if other.Last-other.First > r.Last-r.First {
					r = other
				}
			}
			broken := bytes.Clone(content)
			broken[(r.First+r.Last)/2*4096+7] ^= 1
			wrong := filepath.Join(t.TempDir(), "wrong.img")
			succeed(t, os.WriteFile(wrong, broken, 0o600))
			s = open(t, wrong, imagefile.Options{BlockMap: path})
			_, err := taken(t, s, all(s.Map()))
			off, n := m.Bytes(r)
			refused(t, err, wrong, fmt.Sprintf("the %d bytes at offset %d ", n, off), m.ChecksumType, path, "--no-bmap")
			var sum *imagefile.ChecksumError
			if !errors.As(err, &sum) || sum.Offset != off || sum.Length != n {
				t.Errorf("%v", err)
			}
			// What is wanted of an intact range is given.
			other := slices.IndexFunc(s.Map().Ranges, func(p bmap.Range) bool { return p.First > r.Last || p.Last < r.First })
			got, err := taken(t, s, []int{other})
			succeed(t, err)
			if len(got) != 1 {
				t.Errorf("%d pieces", len(got))
			}
		})
	}
}

// TestPartOfLongRange wants a few pieces of a long range: they are given at
// once the first time, and then all of the range is read for the checksum,
// though not given, until it is known to be right.
func TestPartOfLongRange(t *testing.T) {
	image, content := small(t)
	path := foreign(t, image, content)["sha1"]
	first := func(s imagefile.Source) int {
		return slices.IndexFunc(s.Map().Ranges, func(r bmap.Range) bool { return r.First == 1024 })
	}
	wrong := func(at int) string {
		broken := bytes.Clone(content)
		broken[at] ^= 1
		path := filepath.Join(t.TempDir(), "wrong.img")
		succeed(t, os.WriteFile(path, broken, 0o600))
		return path
	}

	s := open(t, image, imagefile.Options{BlockMap: path})
	for i := range 3 {
		k := first(s) + i
		got, err := taken(t, s, []int{k})
		succeed(t, err)
		off, n := s.Map().Bytes(s.Map().Ranges[k])
		if len(got) != 1 || !bytes.Equal(got[k], content[off:off+n]) {
			t.Errorf("something else than piece %d was given", k)
		}
	}

	bad := wrong(len(content) - 1)
	s = open(t, bad, imagefile.Options{BlockMap: path})
	_, err := taken(t, s, []int{first(s)})
	succeed(t, err)
	_, err = taken(t, s, []int{first(s)})
	refused(t, err, bad, "sha1")

	// What was given before the range was checked was something else.
	bad = wrong(1024*4096 + 7)
	s = open(t, bad, imagefile.Options{BlockMap: path})
	_, err = taken(t, s, []int{first(s)})
	succeed(t, err)
	info, err := os.Stat(bad)
	succeed(t, err)
	f, err := os.OpenFile(bad, os.O_WRONLY, 0)
	succeed(t, err)
	defer f.Close()
	_, err = f.WriteAt(content[1024*4096:][:4096], 1024*4096)
	succeed(t, err)
	succeed(t, os.Chtimes(bad, info.ModTime(), info.ModTime()))
	if _, err = taken(t, s, all(s.Map())); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("%v", err)
	}
}

func TestRefusedMaps(t *testing.T) {
	image, content := small(t)
	size := int64(len(content))
	edit := func(change func(m *bmap.Map)) string {
		m := &bmap.Map{ImageSize: size, BlockSize: 4096, ChecksumType: "sha256", Ranges: []bmap.Range{{First: 0, Last: 9}}}
		change(m)
		var text bytes.Buffer
		succeed(t, m.Write(&text))
		return text.String()
	}
	for _, c := range []struct {
		summary, text string
		says          []string
	}{
		{"of a larger image", edit(func(m *bmap.Map) { m.ImageSize += 4096 }), []string{fmt.Sprint(size + 4096), fmt.Sprint(size), "another image"}},
		{"of larger blocks", edit(func(m *bmap.Map) { m.BlockSize = 8192 }), []string{"8192", "4096"}},
		{"without the first block", edit(func(m *bmap.Map) { m.Ranges[0].First = 1 }), []string{"first block"}},
		{"of nothing", edit(func(m *bmap.Map) { m.Ranges = nil }), []string{"first block"}},
		{"no map", "<html>", []string{"corrupt block map"}},
		{"an unknown checksum", strings.ReplaceAll(edit(func(*bmap.Map) {}), "sha256", "md5"), []string{"md5"}},
		{"too large", strings.Repeat(" ", 33<<20), []string{"more than a block map"}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "the.bmap")
			succeed(t, os.WriteFile(path, []byte(c.text), 0o600))
			_, err := imagefile.Open(background, image, imagefile.Options{BlockMap: path})
			refused(t, err, image, append(c.says, path, "--no-bmap")...)
		})
	}
	_, err := imagefile.Open(background, image, imagefile.Options{BlockMap: "/nowhere/the.bmap"})
	refused(t, err, image, "/nowhere/the.bmap", "--no-bmap")
}

func TestBesides(t *testing.T) {
	_, content := small(t)
	for _, c := range []struct{ image, at string }{
		{"p1.img", "p1.img.bmap"},
		{"p1.img", "p1.bmap"},
		{"P1.IMG", "P1.bmap"},
		{"p1.img", ""},
		{"p1.v2", ""}, // p1.bmap would be another's
	} {
		t.Run(c.image+" with "+c.at, func(t *testing.T) {
			dir := t.TempDir()
			image := filepath.Join(dir, c.image)
			succeed(t, os.WriteFile(image, content, 0o600))
			want := ""
			if c.at != "" {
				want = filepath.Join(dir, c.at)
				ownMap(t, content, want)
			} else {
				ownMap(t, content, filepath.Join(dir, "p2.img.bmap"))
				if c.image == "p1.v2" {
					ownMap(t, content, filepath.Join(dir, "p1.bmap"))
				}
			}
			if got := open(t, image, imagefile.Options{}).BlockMap(); got != want {
				t.Errorf("found %q, not %q", got, want)
			}
		})
	}
}

func TestNoImages(t *testing.T) {
	_, content := miniature(t)
	cd := make([]byte, 40<<10)
	copy(cd[16*2048:], "\x01CD001")
	hybrid := bytes.Clone(content)
	copy(hybrid[16*2048:], "\x01CD001")
	tar := make([]byte, 2048)
	copy(tar[257:], "ustar")
	for _, c := range []struct {
		summary string
		content []byte
		says    []string // nothing: it is accepted
	}{
		{"empty", nil, []string{"an empty file"}},
		{"a web page", []byte("<!DOCTYPE html>\n<html><body>Sign in</body></html>"), []string{"an HTML page", "log-in"}},
		{"a tar", tar, []string{"a tar archive", "a disk image is wanted"}},
		{"a CD", cd, []string{"a CD", "with a partition table"}},
		{"a block map", []byte(oldMap("1.0", 4096, []bmap.Range{{}}, nil)), []string{"a block map", "the image that it belongs to"}},
		{"cut in a sector", content[:len(content)-3], []string{"no whole number of sectors", "download it again"}},
		{"cut short", content[:len(content)-1<<20], []string{"partition 2 reaches past the end", "cut short"}},
		{"a CD that is a disk", hybrid, nil},
	} {
		t.Run(c.summary, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "some.img")
			succeed(t, os.WriteFile(path, c.content, 0o600))
			if len(c.says) == 0 {
				if s := open(t, path, imagefile.Options{}); len(s.Warnings()) != 1 || !strings.Contains(s.Warnings()[0], "CD") {
					t.Errorf("warnings %q", s.Warnings())
				}
				return
			}
			_, err := imagefile.Open(background, path, imagefile.Options{})
			refused(t, err, path, c.says...)
		})
	}
	dir := t.TempDir()
	for path, says := range map[string]string{dir: "a folder", filepath.Join(dir, "none.img"): "no such file", "/dev/null": "no regular file"} {
		_, err := imagefile.Open(background, path, imagefile.Options{})
		refused(t, err, path, says)
	}
}

// TestGiveEnds sees that what the receiver says ends Pieces and comes back as
// it is, and that a cancelled context does too.
func TestGiveEnds(t *testing.T) {
	image, content := small(t)
	paths := []string{image, makerOf(t, "xz of one block").pack(t, image), makerOf(t, "xz of many blocks").pack(t, image), makerOf(t, "zstd").pack(t, image)}
	own := filepath.Join(t.TempDir(), "own.bmap")
	ownMap(t, content, own)
	for _, path := range paths {
		s := open(t, path, imagefile.Options{BlockMap: own})
		full := errors.New("the card is full")
		given := 0
		err := s.Pieces(background, all(s.Map()), func(int, []byte) error {
			if given++; given == 3 {
				return full
			}
			return nil
		})
		if err != full || given != 3 {
			t.Errorf("%s: %v after %d pieces", s.Name(), err, given)
		}
		ctx, cancel := context.WithCancel(background)
		err = s.Pieces(ctx, all(s.Map()), func(int, []byte) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", s.Name(), err)
		}
		for _, wanted := range [][]int{{1, 1}, {2, 1}, {-1}, {len(s.Map().Ranges)}} {
			if err := s.Pieces(background, wanted, func(int, []byte) error { return nil }); err == nil {
				t.Errorf("%s: %v was given", s.Name(), wanted)
			}
		}
		succeed(t, s.Pieces(background, nil, nil))
	}
	ctx, cancel := context.WithCancel(background)
	cancel()
	for _, path := range paths {
		if _, err := imagefile.Open(ctx, path, imagefile.Options{NoBlockMap: true}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestChanged(t *testing.T) {
	image, content := small(t)
	path := foreign(t, image, content)["sha1"]
	s := open(t, image, imagefile.Options{BlockMap: path})
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	succeed(t, err)
	defer f.Close()
	succeed(t, f.Truncate(int64(len(content)-4096)))
	if _, err := taken(t, s, all(s.Map())); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("%v", err)
	}
}

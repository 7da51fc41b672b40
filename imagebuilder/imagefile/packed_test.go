package imagefile_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hatchery/imagebuilder/flash"
	"hatchery/imagebuilder/imagefile"
	"hatchery/internal/bmap"
)

func TestPacked(t *testing.T) {
	image, content := small(t)
	maps := t.TempDir()
	own, theirs, old := filepath.Join(maps, "own"), filepath.Join(maps, "theirs"), filepath.Join(maps, "old")
	ownMap(t, content, own)
	theirMap(t, image, theirs)
	blocksOf := []bmap.Range{{First: 0, Last: 3000}, {First: 3010, Last: int64(len(content) / 4096)}}
	succeed(t, os.WriteFile(old, []byte(oldMap("1.0", int64(len(content)), blocksOf, nil)), 0o600))
	for _, m := range makers {
		t.Run(m.summary, func(t *testing.T) {
			path := m.pack(t, image)
			temporary := t.TempDir()
			t.Setenv("TMPDIR", temporary)
			for _, o := range []imagefile.Options{{}, {BlockMap: own}, {BlockMap: theirs}, {BlockMap: old}, {Memory: 1 << 20}} {
				if o.Memory != 0 && m.name == "p1.img.xz" {
					continue // a window takes more
				}
				s := open(t, path, o)
				if readerAt(s) || s.BlockMap() != o.BlockMap {
					t.Errorf("read anywhere: %v, map %q", readerAt(s), s.BlockMap())
				}
				sameAs(t, s, content)
				if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
					t.Errorf("unpacked to %v, %v", left, err)
				}
				switch o.BlockMap {
				case "":
					if blocks(s.Map()) != fmt.Sprintf("0-%d\n", len(content)/4096) {
						t.Errorf("not all is mapped: %s", blocks(s.Map()))
					}
					want := 0
					if !m.sized {
						want = len(s.Map().Ranges)
					}
					if checksums(s.Map()) != want {
						t.Errorf("%d of %d pieces have checksums", checksums(s.Map()), len(s.Map().Ranges))
					}
					if len(s.Warnings()) != 1 || !strings.Contains(s.Warnings()[0], "no block map") {
						t.Errorf("warnings %q", s.Warnings())
					}
				case old:
				default:
					if len(s.Warnings()) != 0 || checksums(s.Map()) == 0 {
						t.Errorf("warnings %q, %d checksums", s.Warnings(), checksums(s.Map()))
					}
				}
			}
			for dir, files := range map[string]int{filepath.Dir(path): 1, temporary: 0} {
				left, err := os.ReadDir(dir)
				succeed(t, err)
				if len(left) != files {
					t.Errorf("left behind in %s: %v", dir, left)
				}
			}
		})
	}
}

// TestPackedMiniature is a real image with its map, in blocks that are decoded
// side by side.
func TestPackedMiniature(t *testing.T) {
	image, content := miniature(t)
	own := filepath.Join(t.TempDir(), "own")
	m := ownMap(t, content, own)
	s := open(t, makerOf(t, "xz of many blocks").pack(t, image), imagefile.Options{BlockMap: own})
	if fmt.Sprint(s.Map()) != fmt.Sprint(m) {
		t.Error("the map is not taken as it is")
	}
	sameAs(t, s, content)
}

func TestPackedMapBeside(t *testing.T) {
	image, content := small(t)
	for _, at := range []string{"p1.img.gz.bmap", "p1.img.bmap", "p1.bmap"} {
		path := makerOf(t, "gzip").pack(t, image)
		want := filepath.Join(filepath.Dir(path), at)
		ownMap(t, content, want)
		if s := open(t, path, imagefile.Options{}); s.BlockMap() != want || s.Name() != "p1.img.gz" {
			t.Errorf("%s with %q", s.Name(), s.BlockMap())
		}
		if s := open(t, path, imagefile.Options{NoBlockMap: true}); s.BlockMap() != "" {
			t.Errorf("%q was taken", s.BlockMap())
		}
	}
	path := makerOf(t, "zip").pack(t, image)
	want := filepath.Join(filepath.Dir(path), "p1.img.bmap")
	ownMap(t, content, want)
	if s := open(t, path, imagefile.Options{}); s.BlockMap() != want {
		t.Errorf("%q is beside the zip", s.BlockMap())
	}
}

// TestSomePieces takes few pieces out of every format, as a retry does, and
// several at once.
func TestSomePieces(t *testing.T) {
	image, content := small(t)
	for _, m := range makers {
		t.Run(m.summary, func(t *testing.T) {
			s := open(t, m.pack(t, image), imagefile.Options{})
			last := len(s.Map().Ranges) - 1
			var group sync.WaitGroup
			for _, wanted := range [][]int{{0}, {last}, {1, last / 2}, {0, last / 3, last/3 + 1, last}} {
				group.Go(func() {
					got, err := taken(t, s, wanted)
					if err != nil || len(got) != len(wanted) {
						t.Errorf("%v: %d pieces, %v", wanted, len(got), err)
					}
					for i, p := range got {
						off, n := s.Map().Bytes(s.Map().Ranges[i])
						if !slices.Contains(wanted, i) || !bytes.Equal(p, content[off:off+n]) {
							t.Errorf("%v: piece %d is wrong", wanted, i)
						}
					}
				})
			}
			group.Wait()
		})
	}
}

// TestOneBlock takes a piece out of an .xz whose other blocks are damaged: they
// are not decoded for it.
func TestOneBlock(t *testing.T) {
	image, content := small(t)
	own := filepath.Join(t.TempDir(), "own")
	ownMap(t, content, own)
	path := makerOf(t, "xz of many blocks").pack(t, image)
	b, err := os.ReadFile(path)
	succeed(t, err)
	b[len(b)/2] ^= 1
	succeed(t, os.WriteFile(path, b, 0o600))
	s := open(t, path, imagefile.Options{BlockMap: own})
	last := len(s.Map().Ranges) - 1
	wrong := func(got map[int][]byte, i int) bool {
		off, n := s.Map().Bytes(s.Map().Ranges[i])
		return !bytes.Equal(got[i], content[off:off+n])
	}
	// The pieces have checksums, which are the engine's to look at: reading ends
	// with the last piece, before or after the damaged block's own check.
	got, err := taken(t, s, all(s.Map()))
	if err == nil && !slices.ContainsFunc(all(s.Map()), func(i int) bool { return wrong(got, i) }) {
		t.Fatal("the damage does not show, so this shows nothing")
	}
	got, err = taken(t, s, []int{last})
	succeed(t, err)
	if wrong(got, last) {
		t.Error("the last piece is wrong")
	}
}

// TestDamage breaks packed images. Where an image comes with checksums by its
// pieces the engine sees what is wrong; here are none.
func TestDamage(t *testing.T) {
	image, content := small(t)
	old := filepath.Join(t.TempDir(), "old")
	succeed(t, os.WriteFile(old, []byte(oldMap("1.0", int64(len(content)), []bmap.Range{{First: 0, Last: 100}, {First: 110, Last: int64(len(content) / 4096)}}, nil)), 0o600))
	for _, m := range makers {
		packed, err := os.ReadFile(m.pack(t, image))
		succeed(t, err)
		for _, c := range []struct {
			summary string
			break_  func(b []byte) []byte
		}{
			{"cut short", func(b []byte) []byte { return b[:len(b)*3/4&^3] }},
			{"its last byte is missing", func(b []byte) []byte { return b[:len(b)-1] }},
			{"a bit is wrong", func(b []byte) []byte { b[len(b)*2/3] ^= 4; return b }},
		} {
			for _, o := range []imagefile.Options{{}, {BlockMap: old}} {
				t.Run(fmt.Sprintf("%s, %s, with %q", m.summary, c.summary, filepath.Base(o.BlockMap)), func(t *testing.T) {
					path := filepath.Join(t.TempDir(), m.name)
					succeed(t, os.WriteFile(path, c.break_(bytes.Clone(packed)), 0o600))
					s, err := imagefile.Open(background, path, o)
					if err == nil {
						defer s.Close()
						// Looking at the beginning does not keep it from being seen.
						_, _ = taken(t, s, []int{0})
						_, err = taken(t, s, all(s.Map()))
					}
					if m.name == "p1.zip" && c.summary == "its last byte is missing" && err == nil {
						return // of the directory's comment, or so
					}
					refused(t, err, path, "download it again")
				})
			}
		}
	}
}

// TestOtherSize opens images with a block map of another.
func TestOtherSize(t *testing.T) {
	image, content := small(t)
	dir := t.TempDir()
	for _, m := range makers {
		path := m.pack(t, image)
		for name, size := range map[string]int64{"smaller": int64(len(content) - 4096), "larger": int64(len(content) + 4096)} {
			other := filepath.Join(dir, name)
			text := oldMap("1.0", size, []bmap.Range{{First: 0, Last: 100}, {First: 200, Last: size/4096 - 1}}, nil)
			succeed(t, os.WriteFile(other, []byte(text), 0o600))
			s, err := imagefile.Open(background, path, imagefile.Options{BlockMap: other})
			if err == nil {
				_, err = taken(t, s, all(s.Map()))
				s.Close()
			}
			says := []string{fmt.Sprint(size), other, "--no-bmap"}
			if name == "smaller" {
				says = []string{other} // than its own partition, perhaps
			}
			if name == "larger" {
				refused(t, err, path, says...)
			} else {
				refused(t, err, path)
			}
		}
	}
}

func TestNoImagesPacked(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		summary, name, command string
		says                   []string
	}{
		{"a text", "a.xz", "echo hello there | xz -c", []string{"what is compressed in it is a text file"}},
		{"a tar", "a.tar.gz", "mkdir t; echo x >t/x; tar -cz t", []string{"a tar archive"}},
		{"twice", "a.img.xz.gz", "echo hello there | xz -c | gzip", []string{"compressed twice"}},
		{"nothing", "a.zst", "zstd -q -c </dev/null", []string{"an empty file"}},
		{"a zip of no image", "a.zip", "echo x >x; zip -q - x", []string{"holds no .img", `"x"`}},
		{"a zip of two images", "b.zip", "echo x >x.img; echo y >y.img; zip -q - x.img y.img", []string{"several images", `"x.img", "y.img"`}},
		{"an encrypted zip", "c.zip", "echo x >z.img; zip -q -P secret - z.img", []string{"encrypted"}},
		{"a zip by another method", "d.zip", "seq 100000 >w.img; zip -q -Z bzip2 - w.img", []string{"method 12", "unpack it first"}},
		{"too large a dictionary", "f.xz", "head -c 1 /dev/zero | xz -c --format=xz --lzma2=dict=256MiB", nil},
		{"too large a window", "g.zst", "head -c 300000000 /dev/zero | zstd -q -1 --long=31 -c", []string{"zstd -d --long=31"}},
		{"odd", "h.img.xz", "(head -c 510 /dev/zero; printf '\\125\\252'; head -c 100 /dev/zero) | xz -c", []string{"no whole number of sectors"}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			path := filepath.Join(dir, c.name)
			cmd := exec.Command("sh", "-ec", c.command)
			cmd.Dir = dir
			out, err := cmd.Output()
			succeed(t, err)
			succeed(t, os.WriteFile(path, out, 0o600))
			_, err = imagefile.Open(background, path, imagefile.Options{})
			refused(t, err, path, c.says...)
		})
	}
}

// TestZipDirectory lists more files than a zip with an image in it has.
func TestZipDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "many.zip")
	f, err := os.Create(path)
	succeed(t, err)
	w := zip.NewWriter(f)
	for i := range 5000 {
		_, err := w.Create(strings.Repeat("long", 250) + fmt.Sprint(i))
		succeed(t, err)
	}
	succeed(t, w.Close())
	succeed(t, f.Close())
	_, err = imagefile.Open(background, path, imagefile.Options{})
	refused(t, err, path, "directory is larger")
}

// TestTooLarge claims more than can be.
func TestTooLarge(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "huge.img")
	f, err := os.Create(path)
	succeed(t, err)
	head := make([]byte, 512)
	head[510], head[511] = 0x55, 0xaa
	_, err = f.Write(head)
	succeed(t, err)
	if err := f.Truncate(4 << 40); err != nil {
		t.Skipf("no file of that size here: %v", err)
	}
	succeed(t, f.Close())
	_, err = imagefile.Open(background, path, imagefile.Options{})
	refused(t, err, path, "1024 GiB")
	m := filepath.Join(dir, "map")
	succeed(t, os.WriteFile(m, []byte(oldMap("1.0", 4<<40, []bmap.Range{{First: 0, Last: 1<<30 - 1}}, nil)), 0o600))
	_, err = imagefile.Open(background, path, imagefile.Options{BlockMap: m})
	refused(t, err, path, "1024 GiB")
}

var _ flash.Source = imagefile.Source(nil)

package imagefile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hatchery/imagebuilder/blockmap"
	"hatchery/imagebuilder/flash"
	"hatchery/imagebuilder/imagefile"
	"hatchery/internal/bmap"
	"hatchery/internal/imagetest"
	"hatchery/internal/sparse"
	"hatchery/internal/testtool"
)

var background = context.Background()

func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// miniature is an image with holes, as a build leaves it, and its content.
// Free space in it holds noise here and there.
func miniature(t testing.TB) (path string, content []byte) {
	t.Helper()
	made, err := os.ReadFile(imagetest.Release(t, "bookworm"))
	succeed(t, err)
	content = bytes.Clone(made)
	layout := imagetest.LayoutOf("bookworm")
	rand.NewChaCha8([32]byte{1}).Read(content[layout.RootStart+40<<20:][:3<<20])
	rand.NewChaCha8([32]byte{2}).Read(content[layout.BootStart+30<<20:][:1<<20])
	return withHoles(t, content), content
}

// small is an image without file systems that does not end where a piece does:
// text and noise with holes between, behind a partition table.
func small(t testing.TB) (path string, content []byte) {
	t.Helper()
	content = make([]byte, 12<<20+3*4096+512)
	for off := 0; off < 3<<20; {
		off += copy(content[off:3<<20], fmt.Sprintf("line %d\n", off))
	}
	noise := rand.NewChaCha8([32]byte{3})
	noise.Read(content[4<<20:][:4096]) // a range of bmaptool's that is one piece
	noise.Read(content[5<<20-512:][:2<<20])
	noise.Read(content[len(content)-700_000:])
	table := content[:512]
	clear(table)
	table[510], table[511] = 0x55, 0xaa
	for i, entry := range []struct{ kind, first, sectors byte }{{0x0c, 8, 8}, {0x83, 16, 200}} {
		copy(table[446+16*i+4:], []byte{entry.kind, 0, 0, 0, entry.first, 0, 0, 0, entry.sectors, 0, 0, 0})
	}
	return withHoles(t, content), content
}

// withHoles writes an image so that its zeros are holes.
func withHoles(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p1.img")
	f, err := os.Create(path)
	succeed(t, err)
	w, err := sparse.NewWriter(f)
	succeed(t, err)
	_, err = w.Write(content)
	succeed(t, err)
	_, err = w.Finish()
	succeed(t, err)
	succeed(t, f.Close())
	return path
}

// ownMap puts hatchery's own map of an image to a path.
func ownMap(t testing.TB, content []byte, path string) *bmap.Map {
	t.Helper()
	m, err := blockmap.Compute(background, "p1.img", disk(content), nil, nil, nil)
	succeed(t, err)
	var text bytes.Buffer
	succeed(t, m.Write(&text))
	succeed(t, os.WriteFile(path, text.Bytes(), 0o600))
	return m
}

// theirMap puts bmaptool's map of an image to a path.
func theirMap(t testing.TB, image, path string) *bmap.Map {
	t.Helper()
	testtool.Run(t, "bmaptool", "create", "-o", path, image)
	return parse(t, path)
}

func parse(t testing.TB, path string) *bmap.Map {
	t.Helper()
	b, err := os.ReadFile(path)
	succeed(t, err)
	m, err := bmap.Parse(bytes.NewReader(b))
	succeed(t, err)
	return m
}

// oldMap is the text of a block map of a version before 1.4, whose checksums
// are SHA-1 or missing, as bmaptool wrote those.
func oldMap(version string, size int64, ranges []bmap.Range, sums []string) string {
	var b strings.Builder
	mapped := int64(0)
	for _, r := range ranges {
		mapped += r.Last - r.First + 1
	}
	fmt.Fprintf(&b, "<?xml version=\"1.0\" ?>\n<bmap version=\"%s\">\n<ImageSize> %d </ImageSize>\n<BlockSize> 4096 </BlockSize>\n"+
		"<BlocksCount> %d </BlocksCount>\n<MappedBlocksCount> %d </MappedBlocksCount>\n<BlockMap>\n", version, size, (size+4095)/4096, mapped)
	for i, r := range ranges {
		sum := ""
		if sums != nil {
			sum = fmt.Sprintf(" sha1=\"%s\"", sums[i])
		}
		fmt.Fprintf(&b, "<Range%s> %d-%d </Range>\n", sum, r.First, r.Last)
	}
	b.WriteString("</BlockMap>\n</bmap>\n")
	return b.String()
}

// disk is an image in memory.
type disk []byte

func (d disk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }
func (d disk) Size() int64                             { return int64(len(d)) }

// open opens an image for the test's duration.
func open(t testing.TB, path string, o imagefile.Options) imagefile.Source {
	t.Helper()
	s, err := imagefile.Open(background, path, o)
	succeed(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// all are the indexes of every piece.
func all(m *bmap.Map) []int {
	wanted := make([]int, len(m.Ranges))
	for i := range wanted {
		wanted[i] = i
	}
	return wanted
}

// taken is what Pieces gives, each piece once and of its length.
func taken(t testing.TB, s flash.Source, wanted []int) (map[int][]byte, error) {
	t.Helper()
	got := map[int][]byte{}
	var mu sync.Mutex
	err := s.Pieces(background, wanted, func(i int, content []byte) error {
		mu.Lock()
		defer mu.Unlock()
		_, n := s.Map().Bytes(s.Map().Ranges[i])
		if got[i] != nil || int64(len(content)) != n {
			return fmt.Errorf("piece %d with %d bytes of %d, given before: %v", i, len(content), n, got[i] != nil)
		}
		got[i] = bytes.Clone(content)
		return nil
	})
	return got, err
}

// sound sees that a map is one of pieces, with right checksums where it has
// any.
func sound(t testing.TB, m *bmap.Map, content []byte) {
	t.Helper()
	if m.ImageSize != int64(len(content)) || m.BlockSize != bmap.BlockSize || m.ChecksumType != bmap.SHA256 {
		t.Fatalf("a map of %d bytes in blocks of %d with %q", m.ImageSize, m.BlockSize, m.ChecksumType)
	}
	next := int64(0)
	for _, r := range m.Ranges {
		off, n := m.Bytes(r)
		if r.First < next || n <= 0 || off/flash.PieceSize != (off+n-1)/flash.PieceSize {
			t.Errorf("the range %d-%d is no piece", r.First, r.Last)
		}
		next = r.Last + 1
		if sum := sha256.Sum256(content[off : off+n]); r.Checksum != "" && hex.EncodeToString(sum[:]) != r.Checksum {
			t.Errorf("the range %d-%d has the checksum %s", r.First, r.Last, r.Checksum)
		}
	}
}

// sameAs takes everything of a source and holds it against the image.
func sameAs(t testing.TB, s flash.Source, content []byte) {
	t.Helper()
	sound(t, s.Map(), content)
	got, err := taken(t, s, all(s.Map()))
	succeed(t, err)
	for i, r := range s.Map().Ranges {
		off, n := s.Map().Bytes(r)
		if !bytes.Equal(got[i], content[off:off+n]) {
			t.Errorf("the range %d-%d is not the image's", r.First, r.Last)
		}
	}
}

// blocks lists the mapped blocks of a map as text, whatever its ranges are.
func blocks(m *bmap.Map) string {
	var b strings.Builder
	for _, r := range m.Merged() {
		fmt.Fprintf(&b, "%d-%d\n", r.First, r.Last)
	}
	return b.String()
}

// checksums counts the pieces that have one.
func checksums(m *bmap.Map) int {
	n := 0
	for _, r := range m.Ranges {
		if r.Checksum != "" {
			n++
		}
	}
	return n
}

// A maker packs an image by a tool.
type maker struct {
	summary string
	name    string // of the file
	command string // of a shell, with $IN and $OUT
	tools   []string
	sized   bool // the file says how large its content is
}

var makers = []maker{
	{"xz of one block", "p1.img.xz", "xz -T1 -1 -c <$IN >$OUT", []string{"xz"}, true},
	{"xz of many blocks", "p1.img.xz", "xz -T2 -1 --block-size=1300000 -c <$IN >$OUT", []string{"xz"}, true},
	{"xz of two streams", "p1.img.xz", "(head -c 5000000 $IN | xz -1 -T2 --block-size=1MiB; tail -c +5000001 $IN | xz -1) >$OUT", []string{"xz"}, true},
	{"gzip", "p1.img.gz", "gzip -1 -c $IN >$OUT", []string{"gzip"}, false},
	{"gzip of two members", "p1.img.gz", "(head -c 5000000 $IN | gzip -1; tail -c +5000001 $IN | gzip -1) >$OUT", []string{"gzip"}, false},
	{"zstd", "p1.img.zst", "zstd -q -3 -c $IN >$OUT", []string{"zstd"}, true},
	{"zstd of a pipe", "p1.img.zst", "cat $IN | zstd -q -3 -c >$OUT", []string{"zstd"}, false},
	{"zstd of two frames", "p1.img.zst", "head -c 5000000 $IN >$OUT.a; tail -c +5000001 $IN >$OUT.b; (zstd -q -c $OUT.a; zstd -q -c $OUT.b) >$OUT; rm $OUT.a $OUT.b", []string{"zstd"}, true},
	{"zip", "p1.zip", "cd $(dirname $IN) && zip -q -1 - $(basename $IN) >$OUT", []string{"zip"}, true},
	{"zip, stored", "p1.zip", "cd $(dirname $IN) && zip -q -0 - $(basename $IN) >$OUT", []string{"zip"}, true},
}

// makerOf gives one by its name.
func makerOf(t testing.TB, summary string) maker {
	t.Helper()
	i := slices.IndexFunc(makers, func(m maker) bool { return m.summary == summary })
	if i < 0 {
		t.Fatalf("no maker %q", summary)
	}
	return makers[i]
}

// pack packs an image into a folder of its own.
func (m maker) pack(t testing.TB, image string) string {
	t.Helper()
	for _, tool := range m.tools {
		testtool.Need(t, tool)
	}
	out := filepath.Join(t.TempDir(), m.name)
	cmd := exec.Command("sh", "-ec", m.command)
	cmd.Env = append(os.Environ(), "IN="+image, "OUT="+out)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", m.command, err, said)
	}
	return out
}

// refused sees that an error is an *InputError and says all that it should.
func refused(t testing.TB, err error, path string, says ...string) {
	t.Helper()
	var input *imagefile.InputError
	if !errors.As(err, &input) {
		t.Fatalf("not a mistake of the user's: %v", err)
	}
	if input.Path != path || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("it does not name the file: %v", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("it does not say %q: %v", s, err)
		}
	}
}

func readerAt(s imagefile.Source) bool {
	_, ok := s.(io.ReaderAt)
	return ok
}

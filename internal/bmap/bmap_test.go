package bmap_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/bmap"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// sample has a range, a single block, neighbours that touch, and an end that
// is no whole block.
func sample() *bmap.Map {
	return &bmap.Map{ImageSize: 40*4096 + 512, BlockSize: 4096, ChecksumType: bmap.SHA256, Ranges: []bmap.Range{
		{First: 0, Last: 3, Checksum: sum("a")},
		{First: 7, Last: 7, Checksum: sum("b")},
		{First: 8, Last: 15, Checksum: sum("c")},
		{First: 39, Last: 40, Checksum: sum("d")},
	}}
}

func TestWrite(t *testing.T) {
	var got bytes.Buffer
	if err := sample().Write(&got); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "sample.bmap")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
	read, err := bmap.Parse(&got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), read); diff != "" {
		t.Fatalf("(-written +read)\n%s", diff)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, c := range []struct {
		summary string
		change  func(*bmap.Map)
		want    string
	}{
		{"an empty image", func(m *bmap.Map) { m.ImageSize = 0 }, "0 bytes"},
		{"blocks of nothing", func(m *bmap.Map) { m.BlockSize = 0 }, "blocks of 0 bytes"},
		{"no checksum type", func(m *bmap.Map) { m.ChecksumType = "" }, "checksum"},
		{"an unknown checksum type", func(m *bmap.Map) { m.ChecksumType = "crc32" }, `the checksum type "crc32"`},
		{"a range past the end", func(m *bmap.Map) { m.Ranges[3].Last = 41 }, "past the image's 41 blocks"},
		{"ranges that overlap", func(m *bmap.Map) { m.Ranges[1].First = 3 }, "overlaps"},
		{"a range that ends before it begins", func(m *bmap.Map) { m.Ranges[2].Last = 7 }, "ends before it begins"},
		{"a checksum of another type", func(m *bmap.Map) { m.Ranges[0].Checksum = "abcd" }, "is no sha256"},
		{"a checksum that would be markup", func(m *bmap.Map) { m.Ranges[0].Checksum = strings.Repeat(`"`, 64) }, "is no sha256"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			m := sample()
			c.change(m)
			var out bytes.Buffer
			err := m.Write(&out)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
			if out.Len() > 0 {
				t.Fatal("something was written")
			}
		})
	}
}

func TestCounts(t *testing.T) {
	m := sample()
	if b, n := m.Blocks(), m.Mapped(); b != 41 || n != 15 {
		t.Fatalf("%d of %d blocks", n, b)
	}
	for i, want := range [][2]int64{{0, 4 * 4096}, {7 * 4096, 4096}, {8 * 4096, 8 * 4096}, {39 * 4096, 4096 + 512}} {
		if off, n := m.Bytes(m.Ranges[i]); off != want[0] || n != want[1] {
			t.Errorf("range %d: %d bytes at %d, want %v", i, n, off, want)
		}
	}
	want := []bmap.Range{{First: 0, Last: 3}, {First: 7, Last: 15}, {First: 39, Last: 40}}
	if diff := cmp.Diff(want, m.Merged()); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
}

// foreign is a block map as other programs write them: {SUM} stands where its
// own checksum, by h, is to be.
func foreign(h hash.Hash, text string) string {
	zeros := strings.Repeat("0", 2*h.Size())
	h.Write([]byte(strings.ReplaceAll(text, "{SUM}", zeros)))
	return strings.ReplaceAll(text, "{SUM}", hex.EncodeToString(h.Sum(nil)))
}

const body = `<?xml version="1.0" ?>
<!-- words, <ImageSize> 5 </ImageSize> -->
<bmap version="%s">
    <ImageSize> 9000 </ImageSize>
    <BlockSize> 4096 </BlockSize>
    <BlocksCount> 3 </BlocksCount>
    <!-- Count: 8 KiB --><MappedBlocksCount> 2    </MappedBlocksCount>
    %s
    <BlockMap>
        <Range %s="%s"> 0 </Range>
        <Range> 2 - 2 </Range>
    </BlockMap>
</bmap>
`

func TestParseVersions(t *testing.T) {
	one, two := strings.Repeat("1", 40), strings.Repeat("2", 64)
	for _, c := range []struct {
		summary string
		text    string
		kind    string
		first   string // the first range's checksum
	}{
		{"1.0 has no checksums", fmt.Sprintf(body, "1.0", "", "x", one), "", ""},
		{"1.2 has those of ranges", fmt.Sprintf(body, "1.2", "", "sha1", one), "sha1", one},
		{"1.3", foreign(sha1.New(), fmt.Sprintf(body, "1.3", "<BmapFileSHA1> {SUM} </BmapFileSHA1>", "sha1", one)), "sha1", one},
		{"1.4 is 2.0", foreign(sha256.New(), fmt.Sprintf(body, "1.4", "<ChecksumType> sha256 </ChecksumType><BmapFileChecksum> {SUM} </BmapFileChecksum>", "chksum", two)), "sha256", two},
		{"2.0", foreign(sha256.New(), fmt.Sprintf(body, "2.0", "<ChecksumType> sha256 </ChecksumType><BmapFileChecksum> {SUM} </BmapFileChecksum>", "chksum", two)), "sha256", two},
		{"2.0 by SHA-1", foreign(sha1.New(), fmt.Sprintf(body, "2.0", "<ChecksumType> sha1 </ChecksumType><BmapFileChecksum> {SUM} </BmapFileChecksum>", "chksum", one)), "sha1", one},
		{"a later minor version may say more", foreign(sha256.New(), fmt.Sprintf(body, "2.7", "<ChecksumType>sha256</ChecksumType><New><Range>1</Range></New><BmapFileChecksum>{SUM}</BmapFileChecksum>", "chksum", two)), "sha256", two},
	} {
		t.Run(c.summary, func(t *testing.T) {
			got, err := bmap.Parse(strings.NewReader(c.text))
			if err != nil {
				t.Fatal(err)
			}
			want := &bmap.Map{ImageSize: 9000, BlockSize: 4096, ChecksumType: c.kind, Ranges: []bmap.Range{
				{First: 0, Last: 0, Checksum: c.first}, {First: 2, Last: 2},
			}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	var plain bytes.Buffer
	if err := sample().Write(&plain); err != nil {
		t.Fatal(err)
	}
	good := plain.String()
	// resummed puts the checksum right after a change.
	resummed := func(text string) string {
		at := strings.Index(text, "<BmapFileChecksum> ") + len("<BmapFileChecksum> ")
		return foreign(sha256.New(), text[:at]+"{SUM}"+text[at+64:])
	}
	change := func(old, now string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q", old)
		}
		return resummed(strings.Replace(good, old, now, 1))
	}
	for _, c := range []struct {
		summary, text string
		want          string
		unsupported   bool
	}{
		{"nothing", "", "holds no <bmap>", false},
		{"a web page", "<html><body>404</body></html>", "<html>", false},
		{"no XML", "\x1f\x8b\x08", "not XML", false},
		{"cut short", good[:len(good)-9], "ends within <bmap>", false},
		{"a second root", good + "<bmap/>", "<bmap> stands where", false},
		{"crossed elements", "<bmap><a></bmap></a>", "the end of <bmap>", false},
		{"too deep", "<bmap>" + strings.Repeat("<a>", 1000), "too deep", false},
		{"an unknown entity", strings.Replace(good, " 7 ", "&seven;", 1), "not XML", false},
		{"no version", resummed(strings.Replace(good, ` version="2.0"`, "", 1)), "version", false},
		{"a future version", resummed(strings.Replace(good, `"2.0"`, `"3.0"`, 1)), "version 3.0", true},
		{"another checksum type", strings.Replace(good, "> sha256 <", "> whirlpool <", 1), "whirlpool", true},
		{"a digit of a range changed", strings.Replace(good, " 7 ", " 6 ", 1), "its checksum is", false},
		{"a checksum changed", strings.Replace(good, sum("b"), sum("x"), 1), "its checksum is", false},
		{"two of an element", change("<BlockSize> 4096 </BlockSize>", "<BlockSize>4096</BlockSize><BlockSize>4096</BlockSize>"), "two <BlockSize>", false},
		{"an element missing", change("<BlockSize> 4096 </BlockSize>", ""), "no <BlockSize>", false},
		{"a negative size", change("<ImageSize> ", "<ImageSize> -"), "no number", false},
		{"a size past 2^63", change("<ImageSize> ", "<ImageSize> 99999999999999999999"), "no number", false},
		{"a size of nothing", change("<ImageSize> 164352 ", "<ImageSize> 0 "), "0 bytes", false},
		{"blocks of nothing", change("<BlockSize> 4096 ", "<BlockSize> 0 "), "blocks of 0 bytes", false},
		{"another count of blocks", change("<BlocksCount> 41 ", "<BlocksCount> 42 "), "claims 42 blocks", false},
		{"another count of mapped blocks", change("<MappedBlocksCount> 15 ", "<MappedBlocksCount> 16 "), "claims 16 mapped", false},
		{"a range past the end", change("39-40", "39-41"), "past the image", false},
		{"a range backwards", change("8-15", "15-8"), "ends before", false},
		{"ranges out of order", change(" 7 ", " 2 "), "out of order", false},
		{"a range of words", change(" 7 ", " seven "), "no number", false},
		{"a range of three", change("8-15", "8-12-15"), "no number", false},
		{"a short checksum", change(sum("b"), sum("b")[:60]), "is no sha256", false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			_, err := bmap.Parse(strings.NewReader(c.text))
			var corrupt *bmap.CorruptError
			var unsupported *bmap.UnsupportedError
			if !errors.As(err, &corrupt) == !c.unsupported || errors.As(err, &unsupported) != c.unsupported || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestParseGivesTheReadersError(t *testing.T) {
	broken := errors.New("broken")
	if _, err := bmap.Parse(failing{broken}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// What is accepted makes sense, and is the same once written and read again.
func FuzzParse(f *testing.F) {
	var plain bytes.Buffer
	if err := sample().Write(&plain); err != nil {
		f.Fatal(err)
	}
	f.Add(plain.Bytes())
	f.Add([]byte(fmt.Sprintf(body, "1.2", "", "sha1", strings.Repeat("1", 40))))
	f.Add([]byte(fmt.Sprintf(body, "1.0", "", "x", "")))
	f.Add([]byte(foreign(sha1.New(), fmt.Sprintf(body, "1.3", "<BmapFileSHA1>{SUM}</BmapFileSHA1>", "sha1", ""))))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := bmap.Parse(bytes.NewReader(data))
		if err != nil {
			return
		}
		end := int64(0)
		for _, r := range m.Ranges {
			off, n := m.Bytes(r)
			if off < end || n <= 0 || off+n > m.ImageSize {
				t.Fatalf("%+v has the range %+v: %d bytes at %d", m, r, n, off)
			}
			end = off + n
		}
		if m.ChecksumType == "" {
			m.ChecksumType = bmap.SHA256
		}
		var again bytes.Buffer
		if err := m.Write(&again); err != nil {
			t.Fatal(err)
		}
		got, err := bmap.Parse(&again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Fatalf("(-read +written and read)\n%s", diff)
		}
	})
}

package flash_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/blockmap"
	"hatchery/imagebuilder/flash"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"
	"hatchery/internal/progress"
	"hatchery/internal/testtool"
)

// disk is an image in memory.
type disk []byte

func (d disk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }
func (d disk) Size() int64                             { return int64(len(d)) }

// miniature is an image of Raspberry Pi OS in small, with the map that a build
// makes.
func miniature(t testing.TB, options ...imagetest.Option) *image {
	t.Helper()
	path := imagetest.Bookworm(t, append(options, imagetest.WithFile(nodefile.Path, nodeJSON, 0o644, 0, 0))...)
	data, err := os.ReadFile(path)
	succeed(t, err)
	return built(t, data)
}

// built is an image with the map that a build makes.
func built(t testing.TB, data []byte) *image {
	t.Helper()
	sums, err := blockmap.Sum(background, disk(data), digest.FromString("any"), progress.Discard)
	succeed(t, err)
	m, err := blockmap.Compute(background, "p1", disk(data), nil, sums, progress.Discard)
	succeed(t, err)
	return &image{data, m}
}

// onDisk is a card's content as a file, for others' tools.
func onDisk(t testing.TB, c *memory) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "card.img")
	succeed(t, os.WriteFile(path, c.data, 0o600))
	return path
}

// judged has others' tools look at a card: the table, and both file systems.
func judged(t testing.TB, c *memory) (table string) {
	t.Helper()
	path := onDisk(t, c)
	if out := testtool.Run(t, "sfdisk", "--verify", path); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk --verify: %s", out)
	}
	parts, err := parttable.Read(disk(c.data), int64(len(c.data)))
	succeed(t, err)
	for i, p := range parts.Partitions[:2] {
		part := filepath.Join(t.TempDir(), fmt.Sprint(i))
		succeed(t, os.WriteFile(part, c.data[p.Start:p.End()], 0o600))
		if i == 0 {
			testtool.Run(t, "fsck.vfat", "-n", part)
		} else {
			testtool.Run(t, "e2fsck", "-fn", part)
		}
	}
	return testtool.Run(t, "sfdisk", "-d", path)
}

func TestRealImage(t *testing.T) {
	im := miniature(t)
	c := newCard(t, 160<<20+12345*512)
	r := write(t, c, im, flash.Options{Grow: true})
	holds(t, c, im)
	end := int64(166<<20) / (4 << 20) * (4 << 20)
	table := judged(t, c)
	if want := fmt.Sprintf("start=%12d, size=%12d, type=83", imagetest.RootStart/512, (end-imagetest.RootStart)/512); !strings.Contains(table, want) {
		t.Errorf("sfdisk -d gives %s, want %q", table, want)
	}
	if r.Grown == nil || r.Grown.To != end-imagetest.RootStart || r.Grown.From != imagetest.RootSize {
		t.Errorf("grown %+v", r.Grown)
	}

	// The next build: a file changed. Meanwhile the card was used: the node has
	// grown its file system and written files.
	next := &image{append([]byte(nil), im.data...), nil}
	edit := func(data []byte, size int64, name string, n int) {
		dev := device(data[imagetest.RootStart : imagetest.RootStart+size])
		fs, err := ext4.Open(dev, size)
		succeed(t, err)
		fs.SetTime(time.Unix(imagetest.Epoch, 0))
		noise := make([]byte, n)
		fill(noise, uint64(n))
		succeed(t, fs.Create(name, bytes.NewReader(noise), ext4.Attr{Mode: 0o644, ModTime: time.Unix(imagetest.Epoch, 0)}))
		succeed(t, fs.Flush())
	}
	edit(next.data, imagetest.RootSize, "/etc/new", 100_000)
	sums, err := blockmap.Sum(background, disk(next.data), digest.FromString("any"), progress.Discard)
	succeed(t, err)
	next.m, err = blockmap.Compute(background, "p1", disk(next.data), nil, sums, progress.Discard)
	succeed(t, err)
	edit(c.data, imagetest.RootSize, "/var/used", 3<<20)
	r = write(t, c, next, flash.Options{Grow: true})
	holds(t, c, next)
	judged(t, c)
	if r.Mode != flash.Delta || r.Before.Target != "p1" || r.Written > r.Mapped/4 || r.Untouched {
		t.Errorf("%+v", r)
	}
	t.Logf("of %d mapped bytes %d were written", r.Mapped, r.Written)
	if r = write(t, c, next, flash.Options{Grow: true}); !r.Untouched || r.Mode != flash.Delta {
		t.Errorf("%+v", r)
	}
}

// device is memory that a file system is edited in.
type device []byte

func (d device) ReadAt(p []byte, off int64) (int, error)  { return bytes.NewReader(d).ReadAt(p, off) }
func (d device) WriteAt(p []byte, off int64) (int, error) { return copy(d[off:], p), nil }

// An image with a GUID partition table is left as it is, its copy at the
// image's end too.
func TestGPTImage(t *testing.T) {
	path := imagetest.Bookworm(t, imagetest.WithGPT())
	data, err := os.ReadFile(path)
	succeed(t, err)
	m, err := blockmap.Layout(disk(data))
	succeed(t, err)
	im := &image{data, m}
	for _, size := range []int64{int64(len(data)), int64(len(data)) + 20<<20} {
		c := newCard(t, size)
		r := write(t, c, im, flash.Options{Grow: true})
		if !bytes.Equal(c.data[:len(data)], data) {
			t.Error("the card is not as the image")
		}
		if r.Grown != nil || !strings.Contains(r.NotGrown, "GUID partition table") {
			t.Errorf("%+v, %q", r.Grown, r.NotGrown)
		}
		if out := testtool.Run(t, "sfdisk", "-d", onDisk(t, c)); !strings.Contains(out, "label: gpt") {
			t.Error(out)
		}
		if r := write(t, c, im, flash.Options{Grow: true, Mode: flash.Delta}); !r.Untouched {
			t.Errorf("%+v", r)
		}
	}
}

// A card that had a GUID partition table has none of it afterwards, neither
// where it begins nor at its end.
func TestOldGPT(t *testing.T) {
	im := newImage(3<<20, 6, 1)
	for _, block := range []int{512, 4096} {
		for _, mode := range []flash.Mode{flash.Full, flash.Delta} {
			c := newCard(t, 30<<20)
			c.block = block
			clear(c.data)
			if block == 512 {
				path := onDisk(t, c)
				testtool.Run(t, "sh", "-c", "echo 'label: gpt\n,,L' | "+testtool.Need(t, "sfdisk")+" "+path)
				var err error
				c.data, err = os.ReadFile(path)
				succeed(t, err)
			} else {
				copy(c.data[4096:], "EFI PART")
				copy(c.data[30<<20-4096:], "EFI PART")
			}
			if n := bytes.Count(c.data, []byte("EFI PART")); n != 2 {
				t.Fatalf("%d headers", n)
			}
			write(t, c, im, flash.Options{Mode: mode})
			holds(t, c, im)
			if bytes.Contains(c.data, []byte("EFI PART")) {
				t.Errorf("%s with blocks of %d: there is a header still", mode, block)
			}
		}
	}
	// One that is put there later is a difference.
	c := newCard(t, 30<<20)
	write(t, c, im, flash.Options{})
	copy(c.data[30<<20-512:], "EFI PART")
	r := write(t, c, im, flash.Options{Mode: flash.Delta})
	if r.Untouched || bytes.Contains(c.data, []byte("EFI PART")) {
		t.Errorf("%+v", r)
	}
	// The data of a node that has grown its file system is none.
	fill(c.data[30<<20-34*512:], 4)
	if r := write(t, c, im, flash.Options{Mode: flash.Delta}); !r.Untouched {
		t.Errorf("%+v", r)
	}
}

func TestNotGrown(t *testing.T) {
	for _, test := range []struct {
		summary string
		edit    func(im *image)
		size    int64
		block   int
		grow    bool
		why     string
	}{
		{"not wanted", func(im *image) {}, 30 << 20, 512, false, ""},
		{"no room", func(im *image) {}, 3 << 20, 512, true, "no more room"},
		{"less than 4 MiB more", func(im *image) {}, 3<<20 + 8192, 512, true, "no more room"},
		{"not Linux", func(im *image) { im.data[446+16+4] = 7 }, 30 << 20, 512, true, "type 0x07"},
		{"a third behind it", func(im *image) {
			copy(im.data[446+32:], im.data[446+16:446+32])
			im.data[446+32+8], im.data[446+32+9], im.data[446+32+10] = 0, 20, 0 // start
			im.data[446+32+12], im.data[446+32+13], im.data[446+32+14] = 0, 1, 0
			im.data[446+16+12], im.data[446+16+13], im.data[446+16+14] = 0, 16, 0
		}, 30 << 20, 512, true, "partition is number 3"},
		{"no table", func(im *image) { clear(im.data[:512]) }, 30 << 20, 512, true, "has not the partitions"},
		{"large blocks", func(im *image) {}, 30 << 20, 4096, true, "blocks of 4096"},
	} {
		im := newImage(3<<20, 6, 1)
		test.edit(im)
		im.sum()
		c := newCard(t, test.size)
		c.block = test.block
		r := write(t, c, im, flash.Options{Grow: test.grow})
		if r.Grown != nil || !strings.Contains(r.NotGrown, test.why) || (test.why == "") != (r.NotGrown == "") {
			t.Errorf("%s: %+v, %q", test.summary, r.Grown, r.NotGrown)
		}
		if !bytes.Equal(c.data[:512], im.data[:512]) {
			t.Errorf("%s: the table is another", test.summary)
		}
		if got := len(r.Warnings) > 0; got != (test.block == 4096) {
			t.Errorf("%s: %q", test.summary, r.Warnings)
		}
	}
}

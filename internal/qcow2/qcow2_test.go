package qcow2_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
	"hatchery/internal/qcow2"
	"hatchery/internal/testtool"
)

const kib, mib, gib = int64(1) << 10, int64(1) << 20, int64(1) << 30

// fill gives so many bytes that are nowhere zero, and differ from block to block.
func fill(seed uint64, n int64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(1 + rnd.IntN(255))
	}
	return p
}

func writeFile(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o400); err != nil {
		t.Fatal(err)
	}
	return path
}

// device is content in memory.
type device struct{ *bytes.Reader }

func newDevice(p []byte) device { return device{bytes.NewReader(p)} }

// islands is a device with a few bytes at some places, and zeros elsewhere.
type islands struct {
	size int64
	at   map[int64][]byte
}

func (d islands) Size() int64 { return d.size }

func (d islands) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), d.size-off)
	clear(p[:n])
	for at, data := range d.at {
		if lo, hi := max(at, off), min(at+int64(len(data)), off+n); lo < hi {
			copy(p[lo-off:hi-off], data[lo-at:])
		}
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// check has QEMU's own tools judge an image: it is sound, and reads as the raw
// one does, and as zeros behind that.
func check(t *testing.T, path, raw string, size int64) {
	t.Helper()
	if out := testtool.Run(t, "qemu-img", "check", path); !strings.Contains(out, "No errors were found") {
		t.Errorf("qemu-img check: %s", out)
	}
	if out := testtool.Run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw); !strings.Contains(out, "Images are identical") {
		t.Errorf("qemu-img compare: %s", out)
	}
	if got := inspect(t, path).Size; got != size {
		t.Errorf("its size is %d, want %d", got, size)
	}
}

// facts are what qemu-img info tells.
type facts struct {
	Size    int64  `json:"virtual-size"`
	Format  string `json:"format"`
	Cluster int64  `json:"cluster-size"`
	Backing string `json:"full-backing-filename"`
	Under   string `json:"backing-filename-format"`
	Special struct {
		Data struct {
			Compat   string `json:"compat"`
			Refcount int    `json:"refcount-bits"`
			Corrupt  bool   `json:"corrupt"`
		} `json:"data"`
	} `json:"format-specific"`
}

func inspect(t *testing.T, path string) (f facts) {
	t.Helper()
	if err := json.Unmarshal([]byte(testtool.Run(t, "qemu-img", "info", "--output=json", path)), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCreate(t *testing.T) {
	const cluster = qcow2.ClusterSize
	var scattered []qcow2.Range
	for at := int64(0); at < 12*mib; at += 5 * 4 * kib {
		scattered = append(scattered, qcow2.Range{Offset: at, Length: 4 * kib})
	}
	lone := []byte("here")
	for _, c := range []struct {
		summary string
		size    int64
		backing []byte         // nil for none
		content func() content // of a copy of the backing file
		ranges  []qcow2.Range
	}{
		{summary: "empty", size: 64 * mib},
		{summary: "the least size", size: 512},
		{summary: "empty, one sector more than clusters", size: 5*cluster + 512},
		{summary: "empty, large", size: 5 * gib},
		{summary: "an image's own size", size: 4 * mib, backing: fill(1, 4*mib)},
		{summary: "more than the image", size: 64 * mib, backing: fill(1, 3*mib)},
		{summary: "image and card end within a cluster", size: 3*mib + 1536, backing: fill(1, 3*mib+512)},
		{summary: "an image that ends within a sector", size: 8 * mib, backing: fill(1, 3*mib+700)},
		{summary: "an image of a byte", size: 2 * gib, backing: []byte{7}},
		{
			summary: "content alone, whole", size: 8 * mib,
			content: func() content { return newDevice(fill(2, 5*mib+100)) },
			ranges:  []qcow2.Range{{Offset: 0, Length: 8 * mib}},
		},
		{
			summary: "one block of 4 KiB", size: 8 * mib, backing: fill(1, 5*mib),
			content: func() content { return changed(fill(1, 5*mib), 1, qcow2.Range{Offset: mib + 4*kib, Length: 4 * kib}) },
			ranges:  []qcow2.Range{{Offset: mib + 4*kib, Length: 4 * kib}},
		},
		{
			summary: "scattered blocks", size: 64 * mib, backing: fill(1, 12*mib),
			content: func() content { return changed(fill(1, 12*mib), 2, scattered...) },
			ranges:  scattered,
		},
		{
			summary: "ranges that overlap, touch, are empty, and come in no order", size: 8 * mib, backing: fill(1, 4*mib),
			content: func() content { return changed(fill(1, 4*mib), 3, qcow2.Range{Offset: mib, Length: mib}) },
			ranges: []qcow2.Range{
				{Offset: mib + 600*kib, Length: 424 * kib}, {Offset: mib, Length: 300 * kib}, {Offset: mib + 300*kib, Length: 300 * kib},
				{Offset: mib + 100*kib, Length: 900 * kib}, {Offset: mib, Length: 1}, {Offset: 2*mib - 50*kib, Length: 1}, {Offset: 7 * mib, Length: 0}, {Offset: mib, Length: 300 * kib},
			},
		},
		{
			summary: "zeros over the image, and in half a cluster of it", size: 8 * mib, backing: fill(1, 4*mib),
			content: func() content {
				p := fill(1, 4*mib)
				clear(p[mib : 2*mib])
				clear(p[3*mib : 3*mib+cluster/2])
				return newDevice(p)
			},
			ranges: []qcow2.Range{{Offset: mib, Length: mib}, {Offset: 3 * mib, Length: cluster / 2}},
		},
		{
			summary: "zeros up to the image's end, within a cluster", size: 8 * mib, backing: fill(1, 4*mib+512),
			content: func() content { return newDevice(append(fill(1, 4*mib-512), make([]byte, 1024)...)) },
			ranges:  []qcow2.Range{{Offset: 4*mib - 512, Length: 1024}},
		},
		{
			summary: "content that is longer than the image", size: 16 * mib, backing: fill(1, 3*mib+512),
			content: func() content { return newDevice(append(fill(1, 3*mib+512), fill(4, 2*mib)...)) },
			ranges:  []qcow2.Range{{Offset: 3*mib + 512, Length: 2 * mib}},
		},
		{
			summary: "content that is shorter than the image", size: 16 * mib, backing: fill(1, 3*mib),
			content: func() content { return newDevice(fill(1, 3*mib-100*kib)) },
			ranges:  []qcow2.Range{{Offset: 3*mib - 100*kib, Length: 100 * kib}},
		},
		{
			summary: "a range that reaches to the card's end", size: 16*mib + 512, backing: fill(1, mib),
			content: func() content { return changed(fill(1, mib), 5, qcow2.Range{Offset: 0, Length: 512}) },
			ranges:  []qcow2.Range{{Offset: 0, Length: 16*mib + 512}},
		},
		{
			summary: "beyond 4 GiB, and at the very end", size: 9*gib + 512,
			content: func() content {
				return islands{9*gib + 512, map[int64][]byte{0: lone, 4*gib - 2: lone, 6*gib + 12345: lone, 9*gib + 508: lone}}
			},
			ranges: []qcow2.Range{{Offset: 9*gib + 508, Length: 4}, {Offset: 4*gib - 2, Length: 4}, {Offset: 0, Length: 4}, {Offset: 6*gib + 12000, Length: 4000}},
		},
	} {
		t.Run(c.summary, func(t *testing.T) {
			testtool.Need(t, "qemu-img")
			dir := t.TempDir()
			o := qcow2.Options{Size: c.size, Ranges: c.ranges}
			var want content = newDevice(c.backing)
			if c.backing != nil {
				o.Backing = writeFile(t, filepath.Join(dir, "image, with: a comma.img"), c.backing)
			}
			if c.content != nil {
				o.Content = c.content()
				want = o.Content
			}
			card := filepath.Join(dir, "card.qcow2")
			if err := qcow2.Create(t.Context(), card, o); err != nil {
				t.Fatal(err)
			}
			check(t, card, flat(t, want, c.ranges, c.size), c.size)
			f := inspect(t, card)
			if f.Format != "qcow2" || f.Special.Data.Compat != "1.1" || f.Cluster != cluster || f.Special.Data.Refcount != 16 || f.Special.Data.Corrupt {
				t.Errorf("qemu-img info: %+v", f)
			}
			if f.Backing != o.Backing || o.Backing != "" && f.Under != "raw" {
				t.Errorf("it lies over %q, %q; want %q, raw", f.Backing, f.Under, o.Backing)
			}
			if names := list(t, dir); c.backing == nil && names != "card.qcow2 600\n" {
				t.Errorf("the folder has:\n%s", names)
			}
		})
	}
}

type content = qcow2.Content

// changed is a device whose ranges have other bytes than p.
func changed(p []byte, seed uint64, ranges ...qcow2.Range) content {
	for i, r := range ranges {
		copy(p[r.Offset:r.Offset+r.Length], fill(seed+uint64(i)*100, r.Length))
	}
	return newDevice(p)
}

// flat writes what a card of a size should read as. Of content without a
// backing file only the ranges count, which are the only bytes that it has.
func flat(t *testing.T, c content, ranges []qcow2.Range, size int64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "flat.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put := func(off, n int64) {
		p := make([]byte, n)
		if _, err := c.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if c.Size() < gib {
		put(0, c.Size())
	} else {
		for _, r := range ranges {
			put(r.Offset, r.Length)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// list gives a folder's files with their permissions.
func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %o\n", e.Name(), info.Mode().Perm())
	}
	return b.String()
}

// TestEveryClusterSize writes with the cluster sizes that ClusterSize was chosen
// among: small ones have tables of more than a cluster.
func TestEveryClusterSize(t *testing.T) {
	testtool.Need(t, "qemu-img")
	backing := writeFile(t, filepath.Join(t.TempDir(), "image"), fill(1, 9*mib))
	c := changed(fill(1, 9*mib), 2, qcow2.Range{Offset: 0, Length: 4 * mib}, qcow2.Range{Offset: 8 * mib, Length: 5})
	ranges := []qcow2.Range{{Offset: 0, Length: 4 * mib}, {Offset: 8 * mib, Length: 5}}
	for _, bits := range []int{9, 10, 12, 14, 16, 21} {
		t.Run(fmt.Sprint(bits), func(t *testing.T) {
			card := filepath.Join(t.TempDir(), "card")
			o := qcow2.Options{Size: 512*mib + 512, Backing: backing, Content: c, Ranges: ranges}
			if err := qcow2.CreateWith(t.Context(), card, o, bits); err != nil {
				t.Fatal(err)
			}
			check(t, card, flat(t, c, nil, o.Size), o.Size)
		})
	}
}

// TestRefcountBlocks: a file is as long as its last refcount block can still
// count, or a cluster longer.
func TestRefcountBlocks(t *testing.T) {
	testtool.Need(t, "qemu-img")
	const least = 9 // clusters of 512 bytes, 256 to a block
	dir := t.TempDir()
	seen := map[int64]bool{}
	for clusters := int64(236); clusters < 256; clusters++ {
		card := filepath.Join(dir, "card")
		o := qcow2.Options{Size: clusters << least, Content: newDevice(fill(1, clusters<<least)), Ranges: []qcow2.Range{{Offset: 0, Length: clusters << least}}}
		if err := qcow2.CreateWith(t.Context(), card, o, least); err != nil {
			t.Fatal(err)
		}
		testtool.Run(t, "qemu-img", "check", card)
		info, err := os.Stat(card)
		if err != nil {
			t.Fatal(err)
		}
		seen[info.Size()>>least] = true
	}
	// With a second block a file has 258 clusters at least.
	if !seen[256] || seen[257] || !seen[258] {
		t.Errorf("files of %v clusters were looked at, and not the limit", seen)
	}
}

// TestRandomChains makes cards over layers at random, and compares each with
// the raw image that the layers make, to which QEMU and the test then write the
// same.
func TestRandomChains(t *testing.T) {
	testtool.Need(t, "qemu-img")
	testtool.Need(t, "qemu-io")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range 12 {
		rnd := rand.New(rand.NewPCG(seed, uint64(round)))
		dir := t.TempDir()
		below := (1 + rnd.Int64N(6000)) * 512
		data := fill(rnd.Uint64(), below)
		for range rnd.IntN(20) {
			at := rnd.Int64N(below)
			clear(data[at:min(below, at+rnd.Int64N(200*kib))])
		}
		base := writeFile(t, filepath.Join(dir, "base.img"), data)
		var top layer.Parent
		b, err := layer.OpenBase(base, digest.NewDigestFromBytes(digest.SHA256, sum(data)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		top = b
		size := below
		var ranges []qcow2.Range
		for i := range rnd.IntN(4) {
			size += rnd.Int64N(3000) * 512
			l, err := layer.Create(filepath.Join(dir, fmt.Sprint(i)), top, size)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			for range rnd.IntN(60) {
				off := rnd.Int64N(size)
				n := min(size-off, rnd.Int64N(40*kib))
				if rnd.IntN(3) == 0 {
					err = l.Discard(off, n)
				} else {
					_, err = l.WriteAt(fill(rnd.Uint64(), n), off)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := l.Seal(); err != nil {
				t.Fatal(err)
			}
			for _, e := range l.Extents() {
				ranges = append(ranges, qcow2.Range{Offset: e.Offset, Length: e.Length})
			}
			top = l
		}
		image, err := os.Create(filepath.Join(dir, "flat.img"))
		if err != nil {
			t.Fatal(err)
		}
		defer image.Close()
		if err := layer.WriteImage(t.Context(), image, top, nil); err != nil {
			t.Fatal(err)
		}
		o := qcow2.Options{Size: size + rnd.Int64N(100)*512, Backing: base, Content: top, Ranges: ranges}
		card := filepath.Join(dir, "card.qcow2")
		if err := qcow2.Create(t.Context(), card, o); err != nil {
			t.Fatal(err)
		}
		if err := image.Truncate(o.Size); err != nil {
			t.Fatal(err)
		}
		check(t, card, image.Name(), o.Size)

		// And so it is after a guest has written to it.
		var commands []string
		for range 40 {
			off := rnd.Int64N(o.Size/512) * 512
			n := min(o.Size-off, (1+rnd.Int64N(80))*512)
			pattern := 1 + rnd.IntN(255)
			commands = append(commands, "-c", fmt.Sprintf("write -P %d %d %d", pattern, off, n))
			if _, err := image.WriteAt(bytes.Repeat([]byte{byte(pattern)}, int(n)), off); err != nil {
				t.Fatal(err)
			}
		}
		testtool.Run(t, "qemu-io", append(append([]string{"-f", "qcow2"}, commands...), card)...)
		check(t, card, image.Name(), o.Size)
		converted := filepath.Join(dir, "converted.img")
		testtool.Run(t, "qemu-img", "convert", "-O", "raw", card, converted)
		sameFiles(t, converted, image.Name())
		if after, err := os.ReadFile(base); err != nil || !bytes.Equal(after, data) {
			t.Errorf("the base was written to (%v)", err)
		}
	}
}

func sum(p []byte) []byte {
	s := sha256.Sum256(p)
	return s[:]
}

func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	left, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(left, right) {
		t.Errorf("%s and %s differ", a, b)
	}
}

// TestGuestFillsTheCard writes to all of a card: QEMU makes tables where there
// are none, and takes refcount blocks into the table that is there.
func TestGuestFillsTheCard(t *testing.T) {
	testtool.Need(t, "qemu-img")
	testtool.Need(t, "qemu-io")
	dir := t.TempDir()
	card := filepath.Join(dir, "card")
	o := qcow2.Options{Size: 60 * mib, Backing: writeFile(t, filepath.Join(dir, "image"), fill(1, mib))}
	// The smallest clusters, so that the card has many of them.
	if err := qcow2.CreateWith(t.Context(), card, o, 9); err != nil {
		t.Fatal(err)
	}
	tables := refcountTable(t, card)
	testtool.Run(t, "qemu-io", "-f", "qcow2", "-t", "unsafe", "-c", "write -P 9 0 60M", card)
	if out := testtool.Run(t, "qemu-img", "check", card); !strings.Contains(out, "122880/122880 = 100.00% allocated") {
		t.Error(out)
	}
	if now := refcountTable(t, card); now != tables {
		t.Errorf("the refcount table was at %s, and had to grow: %s", tables, now)
	}
}

// refcountTable gives the header's place of the refcount table, as hexadecimal bytes.
func refcountTable(t *testing.T, card string) string {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 12)
	if _, err := f.ReadAt(p, 48); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", p)
}

// short is content that ends before it should.
type short struct{ device }

func (s short) Size() int64 { return s.device.Size() + 1 }

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	image := writeFile(t, filepath.Join(dir, "image"), fill(1, mib))
	some := newDevice(fill(1, mib))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		summary string
		ctx     context.Context
		o       qcow2.Options
		want    string
	}{
		{"no size", nil, qcow2.Options{}, "impossible size: 0 bytes"},
		{"a negative size", nil, qcow2.Options{Size: -512}, "impossible size: -512 bytes"},
		{"no whole sectors", nil, qcow2.Options{Size: mib + 1}, "impossible size: 1048577 bytes"},
		{"too large", nil, qcow2.Options{Size: qcow2.MaxSize + 512}, "impossible size: 2199023256064 bytes"},
		{"less than the image", nil, qcow2.Options{Size: 512, Backing: image}, "its 512 bytes are less than the backing file's 1048576"},
		{"less than the content", nil, qcow2.Options{Size: 512, Content: some}, "its 512 bytes are less than the content's 1048576"},
		{"a relative backing file", nil, qcow2.Options{Size: mib, Backing: "image"}, "the backing file image is not named by its whole path"},
		{"no such backing file", nil, qcow2.Options{Size: mib, Backing: image + ".no"}, "no such file or directory"},
		{"a folder as backing file", nil, qcow2.Options{Size: mib, Backing: dir}, "is not a regular file"},
		{"too long a name", nil, qcow2.Options{Size: mib, Backing: "/" + strings.Repeat("x", 1023)}, "path is longer than 1023 bytes"},
		{"ranges of nothing", nil, qcow2.Options{Size: mib, Ranges: []qcow2.Range{{}}}, "there are ranges, but no content"},
		{"a range before the start", nil, qcow2.Options{Size: mib, Content: some, Ranges: []qcow2.Range{{Offset: -1, Length: 1}}}, "1 bytes at -1 reach past the image's 1048576"},
		{"a negative range", nil, qcow2.Options{Size: mib, Content: some, Ranges: []qcow2.Range{{Offset: 1, Length: -1}}}, "-1 bytes at 1 reach past"},
		{"a range past the end", nil, qcow2.Options{Size: mib, Content: some, Ranges: []qcow2.Range{{Offset: 1, Length: mib}}}, "1048576 bytes at 1 reach past"},
		{"a range that overflows", nil, qcow2.Options{Size: mib, Content: some, Ranges: []qcow2.Range{{Offset: 1, Length: 1<<63 - 1}}}, "reach past"},
		{"content that ends too early", nil, qcow2.Options{Size: 2 * mib, Content: short{some}, Ranges: []qcow2.Range{{Offset: 0, Length: 2 * mib}}}, "cannot read its content at byte 1048576: unexpected EOF"},
		{"cancelled", cancelled, qcow2.Options{Size: mib, Content: some, Ranges: []qcow2.Range{{Offset: 0, Length: 512}}}, "context canceled"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			dir := t.TempDir()
			card := writeFile(t, filepath.Join(dir, "card"), []byte("what was there"))
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			err := qcow2.Create(c.ctx, card, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "cannot write "+card+": ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if got, _ := os.ReadFile(card); string(got) != "what was there" || list(t, dir) != "card 400\n" {
				t.Errorf("a failure left %q, and the folder as:\n%s", got, list(t, dir))
			}
		})
	}
	if err := qcow2.Create(t.Context(), filepath.Join(dir, "no", "card"), qcow2.Options{Size: mib}); err == nil {
		t.Error("it was made in a folder that is not there")
	}
}

// TestOneImageUnderTwoCards: QEMU locks a backing file against writers, not
// against another guest that reads it.
func TestOneImageUnderTwoCards(t *testing.T) {
	qemuIO := testtool.Need(t, "qemu-io")
	dir := t.TempDir()
	image := writeFile(t, filepath.Join(dir, "image"), fill(1, mib))
	open := func(name string) (end func() string) {
		t.Helper()
		card := filepath.Join(dir, name)
		if err := qcow2.Create(t.Context(), card, qcow2.Options{Size: 2 * mib, Backing: image}); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(qemuIO, "-f", "qcow2", card)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It asks for a command when it has the files open.
		prompt := make([]byte, len("qemu-io> "))
		n, _ := io.ReadFull(out, prompt)
		return func() string {
			fmt.Fprintln(in, "write -P 3 0 512")
			in.Close()
			rest, _ := io.ReadAll(out)
			cmd.Wait()
			return string(prompt[:n]) + string(rest) + stderr.String()
		}
	}
	first, second := open("first"), open("second")
	for _, end := range []func() string{second, first} {
		if out := end(); !strings.Contains(out, "wrote 512/512 bytes") {
			t.Errorf("qemu-io said:\n%s", out)
		}
	}
	if got, err := os.ReadFile(image); err != nil || !bytes.Equal(got, fill(1, mib)) {
		t.Errorf("the image was written to (%v)", err)
	}
}

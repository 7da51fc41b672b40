package blockmap_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/blockmap"
	"hatchery/internal/bmap"
	"hatchery/internal/bootpart"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	"hatchery/internal/progress"
)

var (
	background = context.Background()
	epoch      = time.Unix(imagetest.Epoch, 0)
)

func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// progressSum counts what work reports.
type progressSum struct{ n atomic.Int64 }

func (p *progressSum) Begin(string, int64) progress.Task { return p }
func (p *progressSum) Add(n int64)                       { p.n.Add(n) }
func (p *progressSum) End(error)                         {}

// disk is an image in memory.
type disk []byte

func (d disk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }
func (d disk) WriteAt(p []byte, off int64) (int, error) {
	return copy(d[off:], p), nil
}
func (d disk) Size() int64 { return int64(len(d)) }

func read(t testing.TB, path string) disk {
	t.Helper()
	b, err := os.ReadFile(path)
	succeed(t, err)
	return b
}

// noise is what a card holds before it is written.
func noise(seed byte, size int64) disk {
	p := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// device is what can be edited.
type device interface {
	io.ReaderAt
	io.WriterAt
}

// section is a part of a device.
type section struct {
	*io.SectionReader
	io.WriterAt
}

func part(d device, off, size int64) section {
	return section{io.NewSectionReader(d, off, size), io.NewOffsetWriter(d, off)}
}

// editRoot changes a miniature's root file system.
func editRoot(t testing.TB, d device, change func(fs *ext4.FS)) {
	t.Helper()
	p := partition(t, d, 2)
	fs, err := ext4.Open(part(d, p.Start, p.Size), p.Size)
	succeed(t, err)
	fs.SetTime(epoch)
	change(fs)
	succeed(t, fs.Flush())
}

// editBoot changes a miniature's boot partition.
func editBoot(t testing.TB, d device, change func(fs *bootpart.FS)) {
	t.Helper()
	p := partition(t, d, 1)
	fs, err := bootpart.Open(d, p.Start, p.Size)
	succeed(t, err)
	change(fs)
	succeed(t, fs.Flush())
}

func partition(t testing.TB, r io.ReaderAt, n int) parttable.Partition {
	t.Helper()
	table, err := parttable.Read(r, 1<<40)
	succeed(t, err)
	return table.Partitions[n-1]
}

// secret is in files that were removed.
const secret = "what was removed is not written to the card"

// used makes a miniature as a build leaves it: with files that came, and
// blocks that hold what was removed.
func used(t testing.TB, codename string, options ...imagetest.Option) disk {
	t.Helper()
	d := read(t, imagetest.Release(t, codename, options...))
	old := strings.Repeat(secret+"\n", 100_000)
	attr := ext4.Attr{Mode: 0o644, ModTime: epoch}
	editRoot(t, d, func(fs *ext4.FS) {
		succeed(t, fs.Create("/old", strings.NewReader(old), attr))
		succeed(t, fs.Create("/kept", bytes.NewReader(noise(1, 3<<20)), attr))
		succeed(t, fs.Create("/nothing", bytes.NewReader(make([]byte, 2<<20)), attr))
	})
	editRoot(t, d, func(fs *ext4.FS) { succeed(t, fs.Remove("/old")) })
	editBoot(t, d, func(fs *bootpart.FS) { succeed(t, fs.WriteFile("old.txt", []byte(old[:1<<20]))) })
	editBoot(t, d, func(fs *bootpart.FS) { succeed(t, fs.Remove("old.txt")) })
	if !bytes.Contains(d, []byte(secret)) {
		t.Fatal("removing a file wiped its blocks, so this image shows nothing")
	}
	return d
}

// edited is a layer over an image, changed as a build does.
func edited(t testing.TB, base *layer.Base, change func(*layer.Layer)) *layer.Layer {
	t.Helper()
	l, err := layer.Create(filepath.Join(t.TempDir(), "layer"), base, base.Size())
	succeed(t, err)
	t.Cleanup(func() { l.Close() })
	change(l)
	_, err = l.Seal()
	succeed(t, err)
	return l
}

// baseOf puts an image into a file, as a base.
func baseOf(t testing.TB, d disk) *layer.Base {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.img")
	succeed(t, os.WriteFile(path, d, 0o600))
	base, err := layer.OpenBase(path, digest.FromBytes(d))
	succeed(t, err)
	t.Cleanup(func() { base.Close() })
	return base
}

// transplant copies what is mapped of an image onto a card full of noise.
func transplant(t testing.TB, d blockmap.Disk, ranges []layer.Extent) disk {
	t.Helper()
	card := noise(99, d.Size())
	for _, e := range ranges {
		_, err := d.ReadAt(card[e.Offset:e.Offset+e.Length], e.Offset)
		succeed(t, err)
	}
	return card
}

// checked is a map's text, after every checksum in it was seen to be right.
func checked(t testing.TB, m *bmap.Map, d blockmap.Disk) string {
	t.Helper()
	for _, r := range m.Ranges {
		off, n := m.Bytes(r)
		if off/blockmap.ChunkSize != (off+n-1)/blockmap.ChunkSize {
			t.Errorf("the range %d-%d crosses chunks", r.First, r.Last)
		}
		p := make([]byte, n)
		_, err := d.ReadAt(p, off)
		succeed(t, err)
		if sum := sha256.Sum256(p); hex.EncodeToString(sum[:]) != r.Checksum {
			t.Errorf("the range %d-%d has the checksum %s", r.First, r.Last, r.Checksum)
		}
	}
	var text strings.Builder
	succeed(t, m.Write(&text))
	return text.String()
}

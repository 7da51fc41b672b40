package reimage_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/controller/reimage"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
	"hatchery/internal/layer"
	"hatchery/internal/parttable"
	"hatchery/internal/testtool"
)

// editable is a layer as a device.
type editable struct {
	*layer.Layer
	start, size int64
}

func (e editable) ReadAt(p []byte, off int64) (int, error)  { return e.Layer.ReadAt(p, e.start+off) }
func (e editable) WriteAt(p []byte, off int64) (int, error) { return e.Layer.WriteAt(p, e.start+off) }

// TestListOfAnImage writes what is in use of a real image onto a card full of noise: the
// file systems there are whole. What is free is not sent, and a layer costs what it changes.
func TestListOfAnImage(t *testing.T) {
	ctx := context.Background()
	path := imagetest.Release(t, "bookworm")
	data, err := os.ReadFile(path)
	succeed(t, err)
	base, err := layer.OpenBase(path, digest.FromBytes(data))
	succeed(t, err)
	defer base.Close()
	top, err := layer.Create(filepath.Join(t.TempDir(), "layer"), base, base.Size())
	succeed(t, err)
	defer top.Close()
	table, err := parttable.Read(base, base.Size())
	succeed(t, err)
	root := table.Partition(parttable.Root)
	fs, err := ext4.Open(editable{top, root.Start, root.Size}, root.Size)
	succeed(t, err)
	fs.SetTime(time.Unix(imagetest.Epoch, 0))
	content := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{7}).Read(content)
	succeed(t, fs.Create("/new", bytes.NewReader(content), ext4.Attr{Mode: 0o644, ModTime: time.Unix(imagetest.Epoch, 0)}))
	succeed(t, fs.Flush())
	_, err = top.Seal()
	succeed(t, err)

	cache := t.TempDir()
	below, readBase, err := reimage.ListOf(ctx, cache, base)
	succeed(t, err)
	list, readTop, err := reimage.ListOf(ctx, cache, top)
	succeed(t, err)
	if readBase < 4<<20 || readBase > base.Size()/4 || readTop < 3<<20 || readTop > readBase*3/4 {
		t.Errorf("%d bytes of the base were read, %d of the layer; the image has %d", readBase, readTop, base.Size())
	}
	again, read, err := reimage.ListOf(ctx, cache, top)
	if err != nil || read != 0 || !bytes.Equal(again.Sums, list.Sums) {
		t.Errorf("again: %d bytes, %v", read, err)
	}
	fresh, _, err := reimage.ListOf(ctx, t.TempDir(), top)
	if err != nil || !bytes.Equal(fresh.Sums, list.Sums) {
		t.Errorf("without what is kept it is another: %v", err)
	}
	if bytes.Equal(below.Sums, list.Sums) || list.BootStart != imagetest.BootStart || list.BootSize != imagetest.BootSize {
		t.Errorf("the boot partition is at %d", list.BootStart)
	}
	// What is kept, and damaged, is made anew.
	for _, e := range must(os.ReadDir(cache))(t) {
		succeed(t, os.Truncate(filepath.Join(cache, e.Name()), 100))
	}
	if again, read, err := reimage.ListOf(ctx, cache, top); err != nil || read == 0 || !bytes.Equal(again.Sums, list.Sums) {
		t.Errorf("damaged: %d bytes, %v", read, err)
	}

	card := make([]byte, top.Size())
	rand.NewChaCha8([32]byte{9}).Read(card)
	sent := 0
	for i := range list.Len() {
		off, n := list.Span(i)
		if list.Free(i) {
			continue
		}
		_, err := top.ReadAt(card[off:off+int64(n)], off)
		succeed(t, err)
		sent++
	}
	t.Logf("%d of %d pieces are in use", sent, list.Len())
	written := filepath.Join(t.TempDir(), "root")
	succeed(t, os.WriteFile(written, card[root.Start:root.End()], 0o600))
	testtool.Run(t, testtool.Need(t, "e2fsck"), "-fn", written)
	got, err := ext4.OpenReadOnly(bytes.NewReader(card[root.Start:root.End()]), root.Size)
	succeed(t, err)
	if read, err := got.ReadFile("/new"); err != nil || !bytes.Equal(read, content) {
		t.Errorf("the new file is another: %v", err)
	}
	boot := filepath.Join(t.TempDir(), "boot")
	p := table.Partition(parttable.Boot)
	succeed(t, os.WriteFile(boot, card[p.Start:p.End()], 0o600))
	testtool.Run(t, testtool.Need(t, "fsck.fat"), "-n", boot)
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		succeed(t, err)
		return v
	}
}

// TestNoImage are contents that no card can be written with.
func TestNoImage(t *testing.T) {
	for summary, content := range map[string][]byte{
		"no partition table":        make([]byte, 8<<20),
		"a boot partition too soon": bytes.Replace(image(1), []byte{0, 0x20, 0, 0}, []byte{0, 0x08, 0, 0}, 1),
	} {
		path := filepath.Join(t.TempDir(), "image")
		succeed(t, os.WriteFile(path, content, 0o600))
		base, err := layer.OpenBase(path, digest.FromBytes(content))
		succeed(t, err)
		if _, _, err := reimage.ListOf(context.Background(), t.TempDir(), base); err == nil {
			t.Errorf("%s has a list", summary)
		}
		base.Close()
	}
}

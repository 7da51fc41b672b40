package emulator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/imagebuilder"
	"hatchery/internal/imagetest"
	"hatchery/internal/layer"
	"hatchery/internal/spec"
	"hatchery/internal/testtool"
)

// A cardTable is where cards are made: a folder, with images and a cache.
type cardTable struct {
	t    *testing.T
	dir  string
	card string
}

func newCardTable(t *testing.T) *cardTable {
	dir := t.TempDir()
	return &cardTable{t: t, dir: dir, card: filepath.Join(dir, "p1.qcow2")}
}

func (c *cardTable) path(name string) string { return filepath.Join(c.dir, name) }

// build builds p1 with a host name, and tells what became of the image.
func (c *cardTable) build(hostname string, layersOnly bool) string {
	c.t.Helper()
	c.t.Setenv("SOURCE_DATE_EPOCH", "1763769600")
	base := c.path("base.img")
	if _, err := os.Stat(base); err != nil {
		c.copy(imagetest.Bookworm(c.t), "base.img")
	}
	text := fmt.Sprintf("name: homelab\nbase: {image: %q}\nuser: {authorized_keys: [%q]}\nslots: {p1: {hostname: %s}}\ndocker: {packages: []}\n", base,
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx5a0Vd1zXVx6y0dJmQ8Qm3i1r7pM0ZbS2jJx0k7r3E test", hostname)
	file := c.path("cluster.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	cluster, err := spec.Load(file)
	if err != nil {
		c.t.Fatal(err)
	}
	result, err := imagebuilder.Build(c.t.Context(), cluster, imagebuilder.Options{
		Out: c.path("out"), Cache: c.path("cache"), Targets: []string{"p1"}, LayersOnly: layersOnly,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return result.Targets[0].State
}

func (c *cardTable) copy(from, name string) string {
	c.t.Helper()
	testtool.Run(c.t, "cp", "--sparse=always", from, c.path(name))
	return c.path(name)
}

func (c *cardTable) open(name string) *imagebuilder.OpenedImage {
	c.t.Helper()
	image, err := imagebuilder.OpenImage(c.t.Context(), name, imagebuilder.ImageOptions{Cache: c.path("cache")})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { image.Close() })
	return image
}

// make makes a card of 256 MiB over an image.
func (c *cardTable) make(image *imagebuilder.OpenedImage) {
	c.t.Helper()
	if size, err := makeCard(c.t.Context(), c.card, image, 200<<20); err != nil || size != 256<<20 {
		c.t.Fatalf("a card of %d bytes (%v)", size, err)
	}
}

// reads checks that QEMU finds the card sound, and in it what a raw image has.
func (c *cardTable) reads(raw string) {
	c.t.Helper()
	testtool.Run(c.t, "qemu-img", "check", c.card)
	if out := testtool.Run(c.t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", c.card, raw); !strings.Contains(out, "Images are identical") {
		c.t.Error(out)
	}
}

// files lists what is beside the card, and of it.
func (c *cardTable) files() string {
	found, _ := filepath.Glob(c.path("*p1.qcow2*"))
	hidden, _ := filepath.Glob(c.path(".p1.qcow2*"))
	var names []string
	for _, f := range append(hidden, found...) {
		names = append(names, filepath.Base(f))
	}
	return strings.Join(names, " ")
}

const (
	cardAlone  = "p1.qcow2 p1.qcow2.json"
	cardPinned = "p1.qcow2 p1.qcow2.image p1.qcow2.json"
)

func TestCards(t *testing.T) {
	testtool.Need(t, "qemu-img")
	testtool.Need(t, "qemu-io")
	for _, test := range []struct {
		summary string
		// image makes an image, and the raw one that it is to be like
		image func(c *cardTable) (name, raw string)
		files string
	}{
		{"a raw image", func(c *cardTable) (string, string) {
			raw := c.copy(imagetest.Bookworm(c.t), "a, b: c.img")
			return raw, raw
		}, cardPinned},
		{"a raw image, by a symbolic link and a relative name", func(c *cardTable) (string, string) {
			raw := c.copy(imagetest.Bookworm(c.t), "a.img")
			if err := os.Symlink(raw, c.path("link.img")); err != nil {
				c.t.Fatal(err)
			}
			c.t.Chdir(c.dir)
			return "link.img", raw
		}, cardPinned},
		{"a raw image that nobody can write to", func(c *cardTable) (string, string) {
			raw := c.copy(imagetest.Bookworm(c.t), "a.img")
			if err := os.Chmod(raw, 0o400); err != nil {
				c.t.Fatal(err)
			}
			return raw, raw
		}, cardPinned},
		{"a compressed image", func(c *cardTable) (string, string) {
			raw := imagetest.Bookworm(c.t)
			return imagetest.XZ(c.t, raw), raw
		}, cardAlone},
		{"a layer, with no image of it", func(c *cardTable) (string, string) {
			c.build("carter", true)
			if _, err := os.Stat(c.path("out/p1.img")); err == nil {
				c.t.Fatal("there is an image")
			}
			layers, _ := filepath.Glob(c.path("out/layers/p1-*.layer"))
			if len(layers) != 1 {
				c.t.Fatalf("layers: %q", layers)
			}
			kept := c.copy(layers[0], "kept.layer")
			// The same build flattens it.
			c.build("carter", false)
			return kept, c.path("out/p1.img")
		}, cardAlone},
		{"a layer over a layer", func(c *cardTable) (string, string) {
			c.build("carter", true)
			layers, _ := filepath.Glob(c.path("out/layers/p1-*.layer"))
			if len(layers) != 1 {
				c.t.Fatalf("layers: %q", layers)
			}
			below := c.open(layers[0]).Parts().Layers.Top()
			top, err := layer.Create(c.path("out/layers/top.layer"), below, below.Size())
			if err != nil {
				c.t.Fatal(err)
			}
			defer top.Close()
			if _, err := top.WriteAt([]byte("over all"), 90<<20); err != nil {
				c.t.Fatal(err)
			}
			if err := top.Discard(60<<20, 2<<20); err != nil {
				c.t.Fatal(err)
			}
			if _, err := top.Seal(); err != nil {
				c.t.Fatal(err)
			}
			flat, err := os.Create(c.path("flat.img"))
			if err != nil {
				c.t.Fatal(err)
			}
			defer flat.Close()
			if err := layer.WriteImage(c.t.Context(), flat, top, nil); err != nil {
				c.t.Fatal(err)
			}
			return top.Path(), flat.Name()
		}, cardAlone},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c := newCardTable(t)
			name, raw := test.image(c)
			before, err := os.ReadFile(raw)
			if err != nil {
				t.Fatal(err)
			}
			image := c.open(name)
			c.make(image)
			c.reads(raw)
			if got := c.files(); got != test.files {
				t.Errorf("there are %s, want %s", got, test.files)
			}
			for _, file := range []string{c.card, cardRecordPath(c.card)} {
				if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v (%v)", file, info.Mode(), err)
				}
			}
			if err := checkCard(c.card); err != nil {
				t.Error(err)
			}

			// What a guest writes is in the card, also when it is used again.
			testtool.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", "-c", "write -P 7 255M 1M", c.card)
			if err := leaveCard(c.card); err != nil {
				t.Error(err)
			}
			if got := c.files(); got != cardAlone {
				t.Errorf("of a card that was left there are %s, want %s", got, cardAlone)
			}
			if size, err := keptCard(c.card, c.open(name)); err != nil || size != 256<<20 {
				t.Errorf("the kept card has %d bytes (%v)", size, err)
			}
			want := c.copy(raw, "want.img")
			for _, at := range []string{"0", "255M"} {
				testtool.Run(t, "qemu-io", "-f", "raw", "-c", "truncate 256M", "-c", "write -P 7 "+at+" 1M", want)
			}
			c.reads(want)

			// A fresh one is as the first.
			c.make(image)
			c.reads(raw)
			if after, err := os.ReadFile(raw); err != nil || !bytes.Equal(after, before) {
				t.Errorf("the image was written to (%v)", err)
			}
			if err := removeCard(c.card); err != nil || c.files() != "" {
				t.Errorf("there still are %s (%v)", c.files(), err)
			}
			if err := removeCard(c.card); err != nil {
				t.Errorf("one that is not there: %v", err)
			}
			if _, err := keptCard(c.card, image); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got %v, want fs.ErrNotExist", err)
			}
		})
	}
}

func TestCardSize(t *testing.T) {
	for _, test := range []struct{ n, want int64 }{
		{0, 1}, {1, 1}, {2, 2}, {3, 4}, {512, 512}, {513, 1024}, {1 << 30, 1 << 30}, {1<<30 + 512, 2 << 30}, {1291845632, 2 << 30}, {1 << 41, 1 << 41},
	} {
		if got := powerOfTwo(test.n); got != test.want {
			t.Errorf("%d: %d, want %d", test.n, got, test.want)
		}
	}
	c := newCardTable(t)
	image := c.open(c.copy(imagetest.Bookworm(t), "a.img"))
	for _, test := range []struct{ least, want int64 }{{0, 128 << 20}, {leastCard, 2 << 30}, {3 << 30, 4 << 30}} {
		if got, err := makeCard(t.Context(), c.card, image, test.least); err != nil || got != test.want {
			t.Errorf("at least %d: %d (%v), want %d", test.least, got, err, test.want)
		}
	}
	var input *imagebuilder.InputError
	if _, err := makeCard(t.Context(), c.card, image, 1<<62+1); !errors.As(err, &input) || c.files() != "" {
		t.Errorf("got %v, and the files %s", err, c.files())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.build("carter", true)
	layers, _ := filepath.Glob(c.path("out/layers/p1-*.layer"))
	if _, err := makeCard(ctx, c.card, c.open(layers[0]), 0); !errors.Is(err, context.Canceled) || c.files() != "" {
		t.Errorf("got %v, and the files %s", err, c.files())
	}
}

// TestBuiltWhileInUse builds an image anew while a guest runs on a card over
// the old one.
func TestBuiltWhileInUse(t *testing.T) {
	testtool.Need(t, "qemu-img")
	c := newCardTable(t)
	c.build("carter", false)
	name := c.path("out/p1.img")
	was := c.copy(name, "was.img")
	image := c.open(name)
	c.make(image)
	// A new image in its place: the old one has a second name.
	if state := c.build("oneil", false); state != imagebuilder.ImageWritten {
		t.Errorf("p1 was %s, want %s", state, imagebuilder.ImageWritten)
	}
	c.reads(was)
	if err := checkCard(c.card); err != nil {
		t.Error(err)
	}
	// A card that is thrown away meanwhile is followed by one over what was
	// opened: the kernel beside it came from there.
	c.make(image)
	c.reads(was)

	// Later nothing goes on with it.
	if err := leaveCard(c.card); err != nil {
		t.Fatal(err)
	}
	is := c.open(name)
	want := "the card " + c.card + " cannot be used again: " + name + " has changed since it was made: throw it away (hatchery boot --fresh), and " + name + " is booted afresh"
	var input *imagebuilder.InputError
	if _, err := keptCard(c.card, is); !errors.As(err, &input) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	c.make(is)
	c.reads(name)
	if err := leaveCard(c.card); err != nil {
		t.Fatal(err)
	}
	if _, err := keptCard(c.card, is); err != nil {
		t.Error(err)
	}

	// And what nobody uses is brought up to date in place, as ever.
	if err := leaveCard(c.card); err != nil {
		t.Fatal(err)
	}
	if state := c.build("teal", false); state != imagebuilder.ImageUpdated {
		t.Errorf("p1 was %s, want %s", state, imagebuilder.ImageUpdated)
	}
	if _, err := keptCard(c.card, c.open(name)); !errors.As(err, &input) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestKeptCardOverALayer: what a layer holds is known by its digest.
func TestKeptCardOverALayer(t *testing.T) {
	c := newCardTable(t)
	layerOf := func(hostname string) *imagebuilder.OpenedImage {
		t.Helper()
		c.build(hostname, true)
		layers, _ := filepath.Glob(c.path("out/layers/p1-*.layer"))
		if len(layers) != 1 {
			t.Fatalf("layers: %q", layers)
		}
		return c.open(layers[0])
	}
	c.make(layerOf("carter"))
	if _, err := keptCard(c.card, layerOf("carter")); err != nil {
		t.Error(err)
	}
	var input *imagebuilder.InputError
	if _, err := keptCard(c.card, layerOf("oneil")); !errors.As(err, &input) || !strings.Contains(err.Error(), "has changed since it was made") {
		t.Errorf("got %v", err)
	}
}

// TestWrittenWhileInUse: somebody who writes to the image itself is found out.
func TestWrittenWhileInUse(t *testing.T) {
	c := newCardTable(t)
	name := c.copy(imagetest.Bookworm(t), "a.img")
	opened := c.open(name)
	c.make(opened)
	if err := checkCard(c.card); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, 12345678); err != nil {
		t.Fatal(err)
	}
	// The clock of some file systems goes by ticks.
	if err := os.Chtimes(name, time.Time{}, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	var changed *changedImageError
	if err := checkCard(c.card); !errors.As(err, &changed) || !strings.HasPrefix(err.Error(), name+" was written to while it was being booted") {
		t.Errorf("got %v, want a changedImageError", err)
	}
	// The kernel was taken out of what the image was.
	if _, err := makeCard(t.Context(), c.card, opened, 0); !errors.As(err, &changed) || c.files() != "" {
		t.Errorf("got %v, and the files %s", err, c.files())
	}
}

func TestKeptCardRefused(t *testing.T) {
	for _, test := range []struct {
		summary string
		change  func(c *cardTable) error
		want    string
	}{
		{"no record", func(c *cardTable) error { return os.Remove(cardRecordPath(c.card)) }, "nothing says what it was made over"},
		{"a torn record", func(c *cardTable) error { return os.Truncate(cardRecordPath(c.card), 20) }, "does not say what it was made over"},
		{"an empty record", func(c *cardTable) error {
			return os.WriteFile(cardRecordPath(c.card), []byte("{}"), 0o600)
		}, "does not say what it was made over"},
		{"moved", func(c *cardTable) error {
			was := c.card
			c.card = c.path("moved.qcow2")
			return errors.Join(os.Rename(was, c.card), os.Rename(cardRecordPath(was), cardRecordPath(c.card)))
		}, "it was made elsewhere, over "},
		{"the image's time", func(c *cardTable) error { return os.Chtimes(c.path("a.img"), time.Time{}, time.Unix(1, 0)) }, "has changed since it was made"},
		{"the image's length", func(c *cardTable) error {
			info, err := os.Stat(c.path("a.img"))
			if err != nil {
				return err
			}
			return errors.Join(os.Truncate(c.path("a.img"), info.Size()+512), os.Chtimes(c.path("a.img"), time.Time{}, info.ModTime()))
		}, "has changed since it was made"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c := newCardTable(t)
			name := c.copy(imagetest.Bookworm(t), "a.img")
			c.make(c.open(name))
			if err := leaveCard(c.card); err != nil {
				t.Fatal(err)
			}
			if err := test.change(c); err != nil {
				t.Fatal(err)
			}
			var input *imagebuilder.InputError
			_, err := keptCard(c.card, c.open(name))
			if !errors.As(err, &input) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "throw it away") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestLeftSecondName: a rig that was killed leaves the image's second name.
func TestLeftSecondName(t *testing.T) {
	c := newCardTable(t)
	name := c.copy(imagetest.Bookworm(t), "a.img")
	c.make(c.open(name))
	if _, err := keptCard(c.card, c.open(name)); err != nil {
		t.Error(err)
	}
	if err := os.Rename(c.copy(imagetest.Bookworm(t, imagetest.WithFile("/new", "", 0o644, 0, 0)), "b.img"), name); err != nil {
		t.Fatal(err)
	}
	c.make(c.open(name))
	left, err := os.Stat(cardImagePath(c.card))
	if err != nil {
		t.Fatal(err)
	}
	if is, err := os.Stat(name); err != nil || !os.SameFile(left, is) {
		t.Errorf("the second name is the old image's (%v)", err)
	}
}

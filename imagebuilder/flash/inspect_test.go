package flash_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"hatchery/imagebuilder/flash"
	"hatchery/internal/imagetest"
	"hatchery/internal/nodefile"
	"hatchery/internal/testtool"
)

// cardOf is a card that holds what a file has.
func cardOf(t testing.TB, path string, size int64) *memory {
	t.Helper()
	data, err := os.ReadFile(path)
	succeed(t, err)
	c := &memory{t: t, block: 512, data: make([]byte, max(size, int64(len(data)))), stable: map[int64][]byte{}}
	copy(c.data, data)
	return c
}

const nodeJSON = `{"cluster":"homelab","name":"p1","role":"node","slot":1,"hostname":"oneil","network":"cnat",` +
	`"address":"172.19.181.1/24","controller":"172.19.181.254","epoch":1795132800,"targets":[]}`

func TestInspect(t *testing.T) {
	im := newImage(3<<20, 6, 1)
	unfinished := func(o flash.Options) func(t *testing.T) *memory {
		return func(t *testing.T) *memory {
			c := newCard(t, 8<<20)
			c.fault = func(o op, _ []byte) (bool, int, error) { return o.kind == "write" && o.off > 0, 0, errIO }
			if _, err := flash.Write(background, c, im, o); err == nil {
				t.Fatal("no error")
			}
			c.fault = nil
			return c
		}
	}
	miniature := func(codename string, options ...imagetest.Option) func(t *testing.T) *memory {
		return func(t *testing.T) *memory { return cardOf(t, imagetest.Release(t, codename, options...), 256<<20) }
	}
	node := func(content string) imagetest.Option {
		return imagetest.WithFile(nodefile.Path, content, 0o644, 0, 0)
	}
	for _, test := range []struct {
		summary string
		card    func(t *testing.T) *memory
		want    flash.Holding
	}{
		{"nothing", func(t *testing.T) *memory { return newCard(t, 8<<20) }, flash.Holding{Kind: flash.Empty, Text: "nothing known"}},
		{"hardly any room", func(t *testing.T) *memory { return newCard(t, 1<<20) }, flash.Holding{Kind: flash.Empty, Text: "nothing known"}},
		{"a target, unfinished", unfinished(flash.Options{Cluster: "homelab", Target: "p1"}),
			flash.Holding{Kind: flash.Unfinished, Cluster: "homelab", Target: "p1", Image: flash.Digest(im.m), Text: "not finished: homelab's p1"}},
		{"an image file, unfinished", unfinished(flash.Options{Target: "raspios.img.xz"}),
			flash.Holding{Kind: flash.Unfinished, Target: "raspios.img.xz", Image: flash.Digest(im.m), Text: "not finished: raspios.img.xz"}},
		{"of a strange and long name", unfinished(flash.Options{Cluster: strings.Repeat("<\"\\é\n>", 100), Target: strings.Repeat("x", 500)}),
			flash.Holding{Kind: flash.Unfinished, Cluster: strings.Repeat("______", 10)[:56], Target: strings.Repeat("x", 56), Image: flash.Digest(im.m),
				Text: "not finished: " + strings.Repeat("______", 10)[:56] + "'s " + strings.Repeat("x", 56)}},
		{"a node", miniature("bookworm", node(nodeJSON)),
			flash.Holding{Kind: flash.Hatchery, Cluster: "homelab", Target: "p1", Hostname: "oneil", Text: "homelab's p1 (oneil), built 2026-11-20"}},
		{"a node with control characters", miniature("bookworm", node(strings.Replace(nodeJSON, "homelab", `home\u001b[2J`, 1))),
			flash.Holding{Kind: flash.Hatchery, Cluster: "home_[2J", Target: "p1", Hostname: "oneil", Text: "home_[2J's p1 (oneil), built 2026-11-20"}},
		{"no node's file", miniature("bookworm", node(`{"cluster":7}`)), flash.Holding{Kind: flash.Other, Text: "a Raspberry Pi OS image (bookworm)"}},
		{"Raspberry Pi OS", miniature("trixie"), flash.Holding{Kind: flash.Other, Text: "a Raspberry Pi OS image (trixie)"}},
		{"the 64-bit one", miniature("bookworm", imagetest.WithArchitecture("arm64")), flash.Holding{Kind: flash.Other, Text: "a Raspberry Pi OS image (bookworm)"}},
		{"a camera's", miniature("bookworm", imagetest.WithoutRoot()), flash.Holding{Kind: flash.Other, Text: `vfat "bootfs"`}},
		// Whose FAT has 2 MiB, twice.
		{"a large camera's", func(t *testing.T) *memory {
			path := filepath.Join(t.TempDir(), "card")
			succeed(t, os.WriteFile(path, nil, 0o600))
			succeed(t, os.Truncate(path, 256<<20))
			testtool.Run(t, "mkfs.fat", "-F32", "-s1", "-n", "EOS", path)
			return cardOf(t, path, 0)
		}, flash.Holding{Kind: flash.Other, Text: `vfat "EOS"`}},
		{"by a GPT", miniature("bookworm", imagetest.WithGPT(), node(nodeJSON)),
			flash.Holding{Kind: flash.Hatchery, Cluster: "homelab", Target: "p1", Hostname: "oneil", Text: "homelab's p1 (oneil), built 2026-11-20"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c := test.card(t)
			c.forget()
			got, err := flash.Inspect(background, c)
			if err != nil || got != test.want {
				t.Errorf("got %+v, want %+v, error %v", got, test.want, err)
			}
			n, bytes := c.count("read")
			if n > 60 || bytes > 2<<20 {
				t.Errorf("%d reads of %d bytes together", n, bytes)
			}
			t.Logf("%d reads of %d bytes together", n, bytes)
		})
	}
}

func TestInspectFails(t *testing.T) {
	c := newCard(t, 8<<20)
	c.fault = func(o op, _ []byte) (bool, int, error) { return true, 0, errGone }
	if _, err := flash.Inspect(background, c); err == nil || !strings.Contains(err.Error(), "the card is gone") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(background)
	cancel()
	if _, err := flash.Inspect(ctx, newCard(t, 8<<20)); err != context.Canceled {
		t.Error(err)
	}
}

// bounded is a card of which only the first bytes are anything.
type bounded struct {
	head []byte
	size int64
	read int64
}

func (b *bounded) Size() int64                              { return b.size }
func (b *bounded) BlockSize() int                           { return 512 }
func (b *bounded) Sync() error                              { return nil }
func (b *bounded) Discard(off, n int64) error               { return nil }
func (b *bounded) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }
func (b *bounded) ReadAt(p []byte, off int64) (int, error) {
	b.read += int64(len(p))
	clear(p)
	if off < int64(len(b.head)) {
		copy(p, b.head[off:])
	}
	return len(p), nil
}

// FuzzInspect: nothing that lies on a card makes Inspect fail, print what
// it should not, or read for long.
func FuzzInspect(f *testing.F) {
	im := newImage(1<<20, 6, 1)
	f.Add([]byte("hatchery: this card is not finished and will not boot.\nRun the same `hatchery flash` again to go on.\n{\"format\":\"hatchery-unfinished/1\",\"target\":\"\\u001b\"}\n"), uint8(30))
	f.Add(im.data[:8192], uint8(35))
	f.Add([]byte{}, uint8(9))
	gpt := make([]byte, 4096)
	copy(gpt[512:], "EFI PART\x00\x00\x01\x00")
	f.Add(gpt, uint8(40))
	ext := make([]byte, 4096)
	ext[1024+56], ext[1024+57], ext[1024+4], ext[1024+24], ext[1024+32], ext[1024+40] = 0x53, 0xef, 0xff, 2, 0xff, 0xff
	f.Add(ext, uint8(34))
	f.Fuzz(func(t *testing.T, head []byte, size uint8) {
		c := &bounded{head: head, size: 1 << (9 + size%48)}
		h, err := flash.Inspect(background, c)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(h.Text+h.Cluster+h.Target+h.Hostname, func(r rune) bool { return !unicode.IsPrint(r) }) || len(h.Text) > 1000 {
			t.Errorf("%q", h)
		}
		if c.read > 9<<20 {
			t.Errorf("%d bytes were read", c.read)
		}
	})
}

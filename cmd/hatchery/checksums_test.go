//go:build linux

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/internal/bmap"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// TestChecksums lets sha256sum, OpenSSL and bmaptool judge what lies beside the images:
// after a first build, an update, a build of one target, and with an image
// that somebody else wrote to.
func TestChecksums(t *testing.T) {
	sha256sum, bmaptool := testtool.Need(t, "sha256sum"), testtool.Need(t, "bmaptool")
	base := imagetest.Bookworm(t)
	w := newWorkspace(t, base, "")
	judge := func(maps []string, want ...string) {
		t.Helper()
		// sha256sum is who will read it; it need not compute them all each time.
		if sha256sum != "" {
			cmd := exec.Command(sha256sum, "--strict", "-c", "SHA256SUMS")
			cmd.Dir = w.path("out")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("sha256sum: %v\n%s", err, out)
			}
			sha256sum = ""
		} else if wrong := wrongSums(t, w.path("out")); wrong != "" {
			t.Errorf("SHA256SUMS: %s", wrong)
		}
		var images []string
		for line := range strings.Lines(string(readFile(t, w.path("out/SHA256SUMS")))) {
			_, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
			if name, ok := strings.CutSuffix(file, ".img"); ok {
				images = append(images, name)
			}
		}
		if !slices.Equal(images, want) {
			t.Errorf("SHA256SUMS has the images %v, want %v", images, want)
		}
		for _, target := range maps {
			card := w.path("card")
			// A card that was in use: what the map leaves out stays.
			if err := os.WriteFile(card, bytes.Repeat([]byte("old card"), 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(bmaptool, "copy", w.path("out/"+target+".img"), card).CombinedOutput(); err != nil {
				t.Errorf("bmaptool copy %s.img: %v\n%s", target, err, out)
				continue
			}
			m, err := bmap.Parse(bytes.NewReader(readFile(t, w.path("out/"+target+".img.bmap"))))
			if err != nil {
				t.Fatal(err)
			}
			image, copied := readFile(t, w.path("out/"+target+".img")), readFile(t, card)
			if m.ImageSize != int64(len(image)) || len(copied) < len(image) {
				t.Fatalf("the image has %d bytes, its map says %d, its copy has %d", len(image), m.ImageSize, len(copied))
			}
			for _, r := range m.Ranges {
				first, end := r.First*m.BlockSize, min((r.Last+1)*m.BlockSize, m.ImageSize)
				if !bytes.Equal(image[first:end], copied[first:end]) {
					t.Errorf("%s: bytes %d to %d of the copy differ", target, first, end)
				}
			}
			e2fsck(t, card)
		}
	}
	all := []string{"controller", "p1", "p2", "p3", "p4"}

	w.hatchery("build", "-q")
	judge([]string{"controller", "p1"}, all...)

	first := readFile(t, w.path("out/SHA256SUMS"))
	w.hatchery("build", "-q")
	if !bytes.Equal(readFile(t, w.path("out/SHA256SUMS")), first) {
		t.Error("nothing changed, but SHA256SUMS did")
	}

	w.cluster(base, "slots: {p1: {}, p2: {hostname: carter}, p3: {}, p4: {}}\n")
	w.hatchery("build", "-q", "p2")
	judge([]string{"p2"}, all...)
	if bytes.Equal(readFile(t, w.path("out/SHA256SUMS")), first) {
		t.Error("p2 changed, SHA256SUMS did not")
	}

	// p3 boots somewhere and writes to its image.
	if err := os.Chtimes(w.path("out/p3.img"), time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.hatchery("build", "-q", "p1")
	judge(nil, "controller", "p1", "p2", "p4")
	w.hatchery("build", "-q")
	judge([]string{"p3"}, all...)

	// A map that somebody spoiled is made again, and sums that are known stay
	// without being computed.
	spoiled := append(readFile(t, w.path("out/p1.img.bmap")), "<!-- no -->"...)
	if err := os.WriteFile(w.path("out/p1.img.bmap"), spoiled, 0o600); err != nil {
		t.Fatal(err)
	}
	w.hatchery("build", "-q", "--no-sums")
	judge([]string{"p1"}, all...)

	// A map that is gone is made again; sums that are not wanted are not.
	if err := os.Remove(w.path("out/p4.img.bmap")); err != nil {
		t.Fatal(err)
	}
	w.cluster(base, "")
	w.hatchery("build", "-q", "--no-sums")
	if _, err := os.Lstat(w.path("out/SHA256SUMS")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SHA256SUMS with --no-sums: %v", err)
	}
	w.hatchery("build", "-q")
	judge([]string{"p4"}, all...)
}

// TestTornImageIsRefusedByItsMap: bmaptool stops where an image is not what
// its map was made of.
func TestTornImageIsRefusedByItsMap(t *testing.T) {
	bmaptool := testtool.Need(t, "bmaptool")
	w := newWorkspace(t, imagetest.Bookworm(t), "")
	w.hatchery("build", "-q", "p1")
	image := readFile(t, w.path("out/p1.img"))
	at := bytes.Index(image, []byte("172.19.181"))
	if at < 0 {
		t.Fatal("no address in the image")
	}
	image[at] ^= 1
	if err := os.WriteFile(w.path("out/p1.img"), image, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(bmaptool, "copy", w.path("out/p1.img"), w.path("card")).CombinedOutput(); err == nil {
		t.Errorf("bmaptool copied a torn image:\n%s", out)
	}
}

// e2fsck judges the root of an image in the miniatures' layout.
func e2fsck(t *testing.T, image string) {
	t.Helper()
	root := entryOf(readFile512(t, image), 1)
	part := image + ".root"
	section(t, image, root, part)
	if out, err := exec.Command(testtool.Need(t, "e2fsck"), "-fn", part).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

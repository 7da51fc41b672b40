package blockmap_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder/blockmap"
	"hatchery/internal/bmap"
	"hatchery/internal/testtool"
)

// published is an image with its map beside it, as a build leaves them.
func published(t *testing.T) (path string, d disk, m *bmap.Map) {
	t.Helper()
	d = used(t, "bookworm")
	path = filepath.Join(t.TempDir(), "p1.img")
	succeed(t, os.WriteFile(path, d, 0o600))
	m, err := blockmap.Compute(background, "p1.img", d, nil, nil, nil)
	succeed(t, err)
	f, err := os.Create(path + ".bmap")
	succeed(t, err)
	defer f.Close()
	succeed(t, m.Write(f))
	return path, d, m
}

func bmaptoolCopy(t *testing.T, image, dest string) (string, error) {
	t.Helper()
	out, err := exec.Command(testtool.Need(t, "bmaptool"), "copy", image, dest).CombinedOutput()
	return string(out), err
}

// bmaptool finds the map, checks the map's checksum and every range's, and
// leaves on the card what is mapped, and the rest as it was. (A file it empties
// first.)
func TestBmaptoolCopies(t *testing.T) {
	image, d, m := published(t)
	for _, c := range []struct {
		summary string
		dest    func(t *testing.T, card string) string
		rest    func(d disk) disk
	}{
		{"to a file", func(_ *testing.T, card string) string { return card }, func(d disk) disk { return make(disk, len(d)) }},
		{"to a loop device", loopDevice, func(d disk) disk { return d }},
	} {
		t.Run(c.summary, func(t *testing.T) {
			card := filepath.Join(t.TempDir(), "card")
			before := noise(99, d.Size())
			succeed(t, os.WriteFile(card, before, 0o600))
			dest := c.dest(t, card)
			out, err := bmaptoolCopy(t, image, dest)
			if err != nil {
				t.Fatalf("bmaptool: %v\n%s", err, out)
			}
			if !strings.Contains(out, "p1.img.bmap") {
				t.Errorf("bmaptool did not find the map:\n%s", out)
			}
			got, rest := read(t, dest), c.rest(before)
			for _, r := range m.Ranges {
				off, n := m.Bytes(r)
				if !bytes.Equal(got[off:off+n], d[off:off+n]) {
					t.Errorf("the range %d-%d was not copied", r.First, r.Last)
				}
				copy(got[off:off+n], rest[off:off+n])
			}
			if !bytes.Equal(got, rest) {
				t.Error("something else was copied too")
			}
		})
	}
}

// loopDevice shows a file as a block device for the test's duration.
func loopDevice(t *testing.T, path string) string {
	t.Helper()
	testtool.NeedRoot(t)
	out, err := exec.Command(testtool.Need(t, "losetup"), "--find", "--show", path).CombinedOutput()
	if err != nil {
		testtool.Missing(t, "loop devices ("+strings.TrimSpace(string(out))+")")
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(testtool.Need(t, "losetup"), "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return device
}

// One bit that is not what it was is seen: in the image, and in the map.
func TestBmaptoolSeesChanges(t *testing.T) {
	for _, c := range []struct {
		summary, file string
		change        func(b []byte)
	}{
		{"in the image", "", func(b []byte) { b[bytes.Index(b, []byte("root:x:0:0"))] ^= 1 }},
		{"in the map", ".bmap", func(b []byte) { b[bytes.LastIndex(b, []byte("-"))+1] ^= 1 }},
	} {
		t.Run(c.summary, func(t *testing.T) {
			image, _, _ := published(t)
			b := read(t, image+c.file)
			c.change(b)
			succeed(t, os.WriteFile(image+c.file, b, 0o600))
			out, err := bmaptoolCopy(t, image, filepath.Join(t.TempDir(), "card"))
			if err == nil || !strings.Contains(out, "checksum mismatch") {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// bmaptool's own map of an image, which knows nothing but holes, is read here
// too; what is more in it are blocks that nobody uses.
func TestBmaptoolCreates(t *testing.T) {
	image, d, m := published(t)
	path := filepath.Join(t.TempDir(), "theirs.bmap")
	testtool.Run(t, "bmaptool", "create", "-o", path, image)
	f, err := os.Open(path)
	succeed(t, err)
	defer f.Close()
	theirs, err := bmap.Parse(f)
	succeed(t, err)
	if theirs.ImageSize != d.Size() || theirs.BlockSize != bmap.BlockSize || theirs.ChecksumType != bmap.SHA256 {
		t.Fatalf("%d bytes in blocks of %d, %s", theirs.ImageSize, theirs.BlockSize, theirs.ChecksumType)
	}
	// The image was written without holes.
	if theirs.Mapped() != theirs.Blocks() || m.Mapped() >= theirs.Mapped()/2 {
		t.Errorf("theirs maps %d blocks of %d, ours %d", theirs.Mapped(), theirs.Blocks(), m.Mapped())
	}
	for _, r := range theirs.Ranges {
		if r.Checksum == "" {
			t.Errorf("no checksum of %d-%d", r.First, r.Last)
		}
	}
}

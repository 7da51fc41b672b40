package preload_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder/preload"
	"hatchery/internal/testtool"
)

func entryNames(t testing.TB, archive []byte) string {
	t.Helper()
	var names strings.Builder
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		names.WriteString(h.Name + "\n")
	}
}

// archiveImages are some that share layers, in all formats.
func archiveImages(t *testing.T, o preload.Options) []*preload.Image {
	t.Helper()
	r, b := newRegistry(t), newBlobs()
	base := layerSpec{format: "gzip", tar: layerTar(t, file{name: "base", content: strings.Repeat("base ", 10000)})}
	modern := layerSpec{format: "zstd", tar: layerTar(t, file{name: "modern", content: strings.Repeat("modern ", 10000)})}
	plain := layerSpec{tar: layerTar(t, file{name: "plain", content: strings.Repeat("plain ", 10000)})}
	one := b.image(t, armv6, base, modern)
	o.Client.Transport = dockerHub(r)
	r.push(t, "library/xy", b, map[string]descriptor{"1": one, "same": one, "2": b.image(t, armv6, base, plain, modern)})
	return mustGet(t, o, armv6, "xy:1", "xy:2", "xy:same")
}

// TestArchiveIsTheSame has two caches, filled each for itself, give one archive.
func TestArchiveIsTheSame(t *testing.T) {
	images := archiveImages(t, options(t))
	a := archive(t, images)
	if !bytes.Equal(a, archive(t, archiveImages(t, options(t)))) {
		t.Error("the second archive differs")
	}
	if preload.Size(images) != int64(len(a)) {
		t.Errorf("the archive has %d bytes, and was said to have %d", len(a), preload.Size(images))
	}
	// A list, two configurations, three layers: nothing twice, names no matter.
	if n := strings.Count(entryNames(t, a), "\n"); n != 6 {
		t.Errorf("got %d entries:\n%s", n, entryNames(t, a))
	}
	if bytes.Contains(a, []byte("\x28\xb5\x2f\xfd")) {
		t.Error("there is zstd in it, which Docker 20.10 cannot read")
	}
	var empty bytes.Buffer
	if err := preload.Archive(&empty, nil, archiveTime); err != nil || preload.Size(nil) != int64(empty.Len()) {
		t.Errorf("no images: %v, %d bytes of %d", err, empty.Len(), preload.Size(nil))
	}
}

// A fullDisk takes so many bytes and no more.
type fullDisk struct{ left int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.left {
		return d.left, errors.New("the disk is full")
	}
	d.left -= len(p)
	return len(p), nil
}

func TestArchivePassesErrorsOn(t *testing.T) {
	images := archiveImages(t, options(t))
	for left := 0; left < int(preload.Size(images)); left += 300 {
		err := preload.Archive(&fullDisk{left}, images, archiveTime)
		if err == nil || !strings.Contains(err.Error(), "the disk is full") {
			t.Fatalf("after %d bytes: %v", left, err)
		}
	}
}

// TestSkopeo has another program that reads both formats judge them: the
// archive that is written, and a layout that it writes.
func TestSkopeo(t *testing.T) {
	testtool.Need(t, "skopeo")
	o := options(t)
	images := archiveImages(t, o)
	write(t, o, "archive.tar", archive(t, images))
	skopeo := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(testtool.Need(t, "skopeo"), append([]string{"--insecure-policy"}, args...)...)
		cmd.Dir = o.Dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, image := range images {
		name := image.Names[0]
		config := skopeo("inspect", "--config", "--raw", "docker-archive:archive.tar:"+name)
		if got := digestOf(config); got != image.ID.String() {
			t.Errorf("%s: skopeo reads the configuration %s, want %s", name, got, image.ID)
		}
		tag := name[strings.LastIndex(name, ":")+1:]
		skopeo("copy", "--override-os", "linux", "--override-arch", "arm", "docker-archive:archive.tar:"+name, "oci:layout:"+tag)
		skopeo("copy", "--override-os", "linux", "--override-arch", "arm", "docker-archive:archive.tar:"+name, "oci-archive:layout-"+tag+".tar:"+tag)
		skopeo("copy", "--override-os", "linux", "--override-arch", "arm", "docker-archive:archive.tar:"+name, "docker-archive:docker-"+tag+".tar:"+name)
	}
	for _, ref := range []string{"./layout", "./layout-1.tar", "./layout-2.tar", "./docker-1.tar", "./docker-2.tar"} {
		for _, image := range mustGet(t, o, armv6, ref) {
			// skopeo writes configurations anew, so they have other digests.
			first := images[0]
			if strings.HasSuffix(image.Names[0], ":2") {
				first = images[1]
			}
			if got, want := seen(t, image), seen(t, first); got != want {
				t.Errorf("%s of %s has\n%.200s\nwant\n%.200s", image.Names, filepath.Base(ref), got, want)
			}
		}
	}
	if got := len(mustGet(t, o, armv6, "./layout")); got != 2 {
		t.Errorf("the layout has %d images, want 2", got)
	}
}

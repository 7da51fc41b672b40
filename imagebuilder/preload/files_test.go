package preload_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"hatchery/imagebuilder/preload"
)

// ofLayers is an image of these layers, from the lowest up.
func ofLayers(t testing.TB, o preload.Options, layers ...[]byte) (*preload.Image, error) {
	t.Helper()
	ref := write(t, o, "x.tar", layerTar(t, dockerArchive(t, []string{"a:1"}, armv6, layers...)...))
	images, err := get(t, o, armv6, ref)
	if err != nil {
		return nil, err
	}
	return images[0], nil
}

func TestFilesThatAContainerSees(t *testing.T) {
	dir := func(name string) file { return file{name: name, kind: tar.TypeDir} }
	for _, test := range []struct {
		summary string
		layers  [][]file
		want    string
	}{
		{summary: "one layer, names of all kinds", layers: [][]file{{{name: "./a", content: "1"}, {name: "/b", content: "2"}, {name: "c/d", content: "3"}}}, want: "/a: 1\n/b: 2\n/c/d: 3\n"},
		{summary: "no regular files", layers: [][]file{{dir("a"), {name: "b", kind: tar.TypeSymlink, link: "/a"}, {name: "c", kind: tar.TypeFifo}}}},
		{summary: "replaced", layers: [][]file{{{name: "a", content: "old"}}, {{name: "a", content: "new"}}}, want: "/a: new\n"},
		{summary: "twice in one layer: the last counts", layers: [][]file{{{name: "a", content: "old"}, {name: "a", content: "new"}}}, want: "/a: new\n"},
		{summary: "removed", layers: [][]file{{{name: "d/a", content: "a"}, {name: "d/b", content: "b"}}, {{name: "d/.wh.a"}}}, want: "/d/b: b\n"},
		{summary: "a folder removed", layers: [][]file{{{name: "d/e/a", content: "a"}, {name: "b", content: "b"}}, {{name: ".wh.d"}}}, want: "/b: b\n"},
		{summary: "removed and made anew above", layers: [][]file{{{name: "a", content: "1"}}, {{name: ".wh.a"}}, {{name: "a", content: "3"}}}, want: "/a: 3\n"},
		{summary: "removed below, made anew in the same layer", layers: [][]file{{{name: "d/a", content: "1"}, {name: "d/b", content: "1"}}, {dir("d"), {name: "d/a", content: "2"}, {name: ".wh.d"}}}, want: "/d/a: 2\n"},
		{summary: "nothing below an opaque folder", layers: [][]file{{{name: "d/a", content: "a"}, {name: "d/e/b", content: "b"}, {name: "x", content: "x"}}, {dir("d"), {name: "d/.wh..wh..opq"}, {name: "d/c", content: "c"}}}, want: "/x: x\n/d/c: c\n"},
		{summary: "an opaque folder, told at its end", layers: [][]file{{{name: "d/a", content: "a"}, {name: "d/e/b", content: "b"}}, {dir("d"), {name: "d/e/c", content: "c"}, {name: "d/.wh..wh..opq"}}}, want: "/d/e/c: c\n"},
		{summary: "all below is opaque", layers: [][]file{{{name: "a", content: "a"}}, {{name: ".wh..wh..opq"}, {name: "b", content: "b"}}}, want: "/b: b\n"},
		{summary: "what AUFS kept for itself", layers: [][]file{{{name: ".wh..wh.plnk/x", content: "x"}, {name: ".wh..wh.aufs", content: "y"}, {name: "a", content: "a"}}}, want: "/.wh..wh.plnk/x: x\n/a: a\n"},
		{summary: "a file in the place of a folder", layers: [][]file{{{name: "d/a", content: "a"}}, {{name: "d", content: "d"}}}, want: "/d: d\n"},
		{summary: "a folder in the place of a file", layers: [][]file{{{name: "d", content: "d"}}, {dir("d"), {name: "d/a", content: "a"}}}, want: "/d/a: a\n"},
		{summary: "a symbolic link in the place of a file", layers: [][]file{{{name: "a", content: "a"}}, {{name: "a", kind: tar.TypeSymlink, link: "b"}}}},
		{summary: "a folder again keeps what is in it", layers: [][]file{{dir("d"), {name: "d/a", content: "a"}}, {dir("d")}}, want: "/d/a: a\n"},
		{summary: "two names", layers: [][]file{{{name: "a", content: "a"}, {name: "z", kind: tar.TypeLink, link: "a"}, {name: "b", kind: tar.TypeLink, link: "/z"}}}, want: "/a: a\n/b: a\n/z: a\n"},
		{summary: "two names, the first of them removed", layers: [][]file{{{name: "a", content: "a"}, {name: "z", kind: tar.TypeLink, link: "a"}}, {{name: ".wh.a"}}}, want: "/z: a\n"},
		{summary: "a second name of a file below", layers: [][]file{{{name: "a", content: "a"}}, {{name: "z", kind: tar.TypeLink, link: "a"}}, {{name: "a", content: "new"}}}, want: "/z: a\n/a: new\n"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var layers [][]byte
			for _, files := range test.layers {
				layers = append(layers, layerTar(t, files...))
			}
			o := options(t)
			image, err := ofLayers(t, o, layers...)
			if err != nil {
				t.Fatal(err)
			}
			if got := seen(t, image); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
			leftovers(t, o)
		})
	}
}

// TestReadingAtAnyPlace reads files small and large in pieces, forward and back.
func TestReadingAtAnyPlace(t *testing.T) {
	const mib = 1 << 20
	for _, size := range []int{0, 1, 4095, 4096, 4097, mib - 1, mib, mib + 1, 3*mib + 5} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(i * i >> 7)
		}
		o := options(t)
		image, err := ofLayers(t, o, layerTar(t, file{name: "a", content: string(content)}, file{name: "b", content: "behind it"}))
		if err != nil {
			t.Fatal(err)
		}
		var visited []string
		err = image.Files(t.Context(), func(path string, n int64, r io.ReaderAt) error {
			visited = append(visited, path)
			if path != "/a" {
				return nil
			}
			if n != int64(size) {
				t.Errorf("%s has %d bytes, want %d", path, n, size)
			}
			for _, at := range []int{0, 10, size - 1, size / 2, mib - 3, size, size + 1, 3, -1} {
				for _, length := range []int{1, 7, 100_000} {
					p := make([]byte, length)
					got, err := r.ReadAt(p, int64(at))
					want, wantErr := 0, error(nil)
					if at >= 0 {
						want, wantErr = bytes.NewReader(content).ReadAt(make([]byte, length), int64(at))
					}
					if got != want || at >= 0 && !errors.Is(err, wantErr) || at < 0 && err == nil {
						t.Errorf("%d bytes at %d of %d: got %d, %v; want %d, %v", length, at, size, got, err, want, wantErr)
					}
					if got > 0 && !bytes.Equal(p[:got], content[at:at+got]) {
						t.Errorf("%d bytes at %d of %d are others", length, at, size)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(visited, " "); got != "/a /b" {
			t.Errorf("visited %s", got)
		}
		leftovers(t, o)
	}
}

func TestFilesEndsWhereItIsTold(t *testing.T) {
	image, err := ofLayers(t, options(t), layerTar(t, file{name: "a"}, file{name: "b"}))
	if err != nil {
		t.Fatal(err)
	}
	enough, visits := errors.New("enough"), 0
	err = image.Files(t.Context(), func(string, int64, io.ReaderAt) error { visits++; return enough })
	if !errors.Is(err, enough) || visits != 1 {
		t.Errorf("%v after %d visits", err, visits)
	}
}

// TestHostileLayers has what could fill a disk or a memory, or leave the image.
func TestHostileLayers(t *testing.T) {
	// What is unpacked may have 16 MiB here.
	const most = 16 << 20
	zeros := func(n int) []byte { return layerTar(t, file{name: "zeros", content: string(make([]byte, n))}) }
	for _, test := range []struct {
		summary string
		layers  []layerSpec
		err     string
	}{
		{summary: "all that may be", layers: []layerSpec{{format: "gzip", tar: zeros(most - 2048)}}},
		{summary: "a bomb of gzip", layers: []layerSpec{{format: "gzip", tar: zeros(4 * most)}}, err: "it unpacks to more than 16777216 bytes"},
		{summary: "a bomb of zstd", layers: []layerSpec{{format: "zstd", tar: zeros(4 * most)}}, err: "it unpacks to more than 16777216 bytes"},
		{summary: "many that are one together", layers: []layerSpec{{format: "gzip", tar: zeros(most / 2)}, {format: "gzip", tar: zeros(most/2 + 1)}}, err: "its layers have 16780800 bytes, unpacked: an image may have 16777216"},
		{summary: "a file of nothing but holes", layers: []layerSpec{{format: "gzip", tar: sparseTar(1 << 40)}}, err: "it unpacks to more than 16777216 bytes"},
		{summary: "a path that leads out", layers: []layerSpec{{tar: layerTar(t, file{name: "a/../../etc/passwd"})}}, err: `it has a file outside of the image: "a/../../etc/passwd"`},
		{summary: "a path that leads out, from the root", layers: []layerSpec{{tar: layerTar(t, file{name: "/../etc/passwd"})}}, err: `it has a file outside of the image`},
		{summary: "a link that leads out", layers: []layerSpec{{tar: layerTar(t, file{name: "a", kind: tar.TypeLink, link: "../../etc/passwd"})}}, err: `it has a file outside of the image`},
		{summary: "a symbolic link may lead anywhere", layers: []layerSpec{{tar: layerTar(t, file{name: "a", kind: tar.TypeSymlink, link: "../../etc/passwd"})}}},
		{summary: "a name without end", layers: []layerSpec{{tar: layerTar(t, file{name: strings.Repeat("x/", 2100) + "x"})}}, err: "it has a file whose name is none"},
		{summary: "no tar", layers: []layerSpec{{tar: bytes.Repeat([]byte("no tar "), 200)}}, err: "its tar is damaged"},
		{summary: "half a tar", layers: []layerSpec{{tar: zeros(5000)[:3000]}}, err: "its tar is damaged"},
		{summary: "half a gzip", layers: []layerSpec{{tar: compressed(t, "gzip", zeros(5000))[:40]}}, err: "what is compressed is damaged"},
		{summary: "half a zstd", layers: []layerSpec{{tar: compressed(t, "zstd", zeros(5000))[:20]}}, err: "what is compressed is damaged"},
		{summary: "xz", layers: []layerSpec{{tar: []byte("\xfd7zXZ\x00 and so on")}}, err: "it is compressed with bzip2 or xz"},
		{summary: "nothing", layers: []layerSpec{{tar: []byte{0}}}, err: "its tar is damaged"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r, b := newRegistry(t), newBlobs()
			r.push(t, "xy", b, map[string]descriptor{"1": b.image(t, armv6, test.layers...)})
			o := options(t)
			o.MostUnpacked = most
			images, err := get(t, o, armv6, r.host+"/xy:1")
			wants(t, err, test.err)
			if err != nil && !isInput(err) {
				t.Errorf("%v is not the user's mistake", err)
			}
			for _, image := range images {
				if err := image.Files(t.Context(), func(string, int64, io.ReaderAt) error { return nil }); err != nil {
					t.Error(err)
				}
			}
			leftovers(t, o)
		})
	}
}

// sparseTar has a file of that size that is one hole (GNU sparse format 1.0).
func sparseTar(size int64) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	data := fmt.Sprintf("1\n%d\n0\n", size)
	data += string(make([]byte, 512-len(data)))
	// The writer of archive/tar makes no such files, but takes their records
	// under another name of the same length.
	w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "holes", Size: int64(len(data)), Format: tar.FormatPAX,
		PAXRecords: map[string]string{"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.name": "holes", "XXX.sparse.realsize": fmt.Sprint(size)},
	})
	io.WriteString(w, data)
	w.Close()
	return bytes.ReplaceAll(b.Bytes(), []byte("XXX.sparse"), []byte("GNU.sparse"))
}

func TestTooManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes 300,000 files")
	}
	entry := layerTar(t, file{name: "a"})[:512]
	many := bytes.Repeat(entry, 300_001)
	_, err := ofLayers(t, options(t), append(many, make([]byte, 1024)...))
	wants(t, err, "it has more than 300000 files")
	// Each name makes two thousand folders.
	var deep []file
	for i := range 200 {
		deep = append(deep, file{name: fmt.Sprint(i) + strings.Repeat("/x", 2000)})
	}
	image, err := ofLayers(t, options(t), layerTar(t, deep...))
	if err == nil {
		err = image.Files(t.Context(), func(string, int64, io.ReaderAt) error { return nil })
	}
	wants(t, err, "it has more than 300000 files")
}

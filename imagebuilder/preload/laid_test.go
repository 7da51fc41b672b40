package preload_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"hatchery/imagebuilder/preload"
)

// inArchive lists the files of an archive's images.
func inArchive(t testing.TB, content []byte, most int64) (string, error) {
	t.Helper()
	var all strings.Builder
	err := preload.ArchiveFilesOfAtMost(t.Context(), bytes.NewReader(content), int64(len(content)), most, func(image, path string, size int64, r io.ReaderAt) error {
		data, err := io.ReadAll(io.NewSectionReader(r, 0, size))
		fmt.Fprintf(&all, "%s %s: %.12s\n", image, path, data)
		return err
	})
	return all.String(), err
}

// TestFilesOfAnArchive: what Archive wrote has the files that its images have.
func TestFilesOfAnArchive(t *testing.T) {
	images := archiveImages(t, options(t))
	content := archive(t, images)
	want := ""
	for _, image := range images {
		if image.Names[0] == "docker.io/library/xy:same" {
			continue // the first one by another name
		}
		for line := range strings.Lines(seen(t, image)) {
			path, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			want += fmt.Sprintf("%s %s: %.12s\n", image.Names[0], path, text)
		}
	}
	got, err := inArchive(t, content, 1<<30)
	if err != nil || got != want || strings.Count(want, "\n") != 5 {
		t.Errorf("%v; got\n%swant\n%s", err, got, want)
	}
	again := strings.Builder{}
	err = preload.ArchiveFiles(t.Context(), bytes.NewReader(content), int64(len(content)), func(image, path string, _ int64, _ io.ReaderAt) error {
		again.WriteString(image + " " + path + "\n")
		return nil
	})
	if err != nil || strings.Count(again.String(), "\n") != 5 {
		t.Errorf("%v; got\n%s", err, again.String())
	}

	// The visitor's word is the last one, and so is the context's.
	enough := errors.New("enough")
	err = preload.ArchiveFiles(t.Context(), bytes.NewReader(content), int64(len(content)), func(string, string, int64, io.ReaderAt) error { return enough })
	if !errors.Is(err, enough) || isInput(err) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = preload.ArchiveFiles(ctx, bytes.NewReader(content), int64(len(content)), func(string, string, int64, io.ReaderAt) error { return nil })
	if !errors.Is(err, context.Canceled) || isInput(err) {
		t.Errorf("got %v", err)
	}
}

// TestHostileArchives: an image that is inspected is anybody's.
func TestHostileArchives(t *testing.T) {
	const most = 1 << 20
	list := func(text string) file { return file{name: "manifest.json", content: text} }
	one := list(`[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`)
	layer := func(data []byte) file { return file{name: "l", content: string(data)} }
	small := layerTar(t, file{name: "x", content: "x"})
	for _, test := range []struct {
		summary string
		files   []file
		content []byte // else of the files
		err     string
	}{
		{summary: "as it is to be", files: []file{one, layer(small)}},
		{summary: "no image", files: []file{list("[]")}},
		{summary: "no tar", content: bytes.Repeat([]byte("no tar "), 200), err: "its tar is damaged"},
		{summary: "half a tar", content: layerTar(t, one, layer(small))[:1300], err: "its tar is damaged"},
		{summary: "no list", files: []file{layer(small)}, err: `it has no "manifest.json"`},
		{summary: "a list that is none", files: []file{list("{"), layer(small)}, err: "its manifest.json is not one"},
		{summary: "a list without end", files: []file{list(strings.Repeat(" ", 4<<20) + "[]")}, err: "its manifest.json has more than 4194304 bytes"},
		{summary: "a layer that is not there", files: []file{one}, err: `a:1 in it: its layer 1 of 1: it has no "l"`},
		{summary: "links that lead to one another", files: []file{one, {name: "l", kind: tar.TypeSymlink, link: "l"}}, err: "its links lead to one another"},
		{summary: "more layers than Docker takes", files: []file{list(`[{"Layers":["l"` + strings.Repeat(`,"l"`, 125) + `]}]`), layer(small)}, err: "an image without a name in it has 126 layers"},
		{summary: "a layer that is none", files: []file{one, layer([]byte("no tar, no tar"))}, err: "a:1 in it: its layer 1 of 1: its tar is damaged"},
		{summary: "half a gzip", files: []file{one, layer(compressed(t, "gzip", small)[:40])}, err: "what is compressed is damaged"},
		{summary: "a path that leads out", files: []file{one, layer(layerTar(t, file{name: "a/../../x"}))}, err: "it has a file outside of the image"},
		{summary: "a bomb", files: []file{one, layer(compressed(t, "gzip", layerTar(t, file{name: "x", content: string(make([]byte, 2*most))})))}, err: "its images unpack to more than 1048576 bytes"},
		{summary: "a file of nothing but holes", files: []file{one, layer(sparseTar(1 << 40))}, err: "its images unpack to more than 1048576 bytes"},
		{summary: "one layer many times", err: "its images unpack to more than 1048576 bytes", files: []file{
			list(`[{"Layers":["l"]}` + strings.Repeat(`,{"Layers":["l"]}`, 3) + `]`), layer(compressed(t, "gzip", layerTar(t, file{name: "x", content: string(make([]byte, most/3))}))),
		}},
		{summary: "a control character in a name", files: []file{list(`[{"RepoTags":["a\u001b[2J"],"Layers":["l"]}]`)}, err: "its layer 1 of 1"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			content := test.content
			if content == nil {
				content = layerTar(t, test.files...)
			}
			_, err := inArchive(t, content, most)
			wants(t, err, test.err)
			if err != nil && (!isInput(err) || strings.ContainsRune(err.Error(), 0x1b)) {
				t.Errorf("%q", err)
			}
		})
	}
}

// FuzzArchiveFiles reads what waits in an image that is inspected.
func FuzzArchiveFiles(f *testing.F) {
	small := layerTar(f, file{name: "x", content: "x"})
	for _, layer := range [][]byte{small, compressed(f, "gzip", small), compressed(f, "zstd", small)} {
		f.Add(layerTar(f, file{name: "manifest.json", content: `[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`}, file{name: "l", content: string(layer)}))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		const most = 1 << 20
		err := preload.ArchiveFilesOfAtMost(t.Context(), bytes.NewReader(content), int64(len(content)), most, func(_, path string, size int64, r io.ReaderAt) error {
			if !strings.HasPrefix(path, "/") || strings.Contains(path, "/../") {
				t.Errorf("a file %q", path)
			}
			_, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, size))
			return err
		})
		var input *preload.InputError
		if err != nil && !errors.As(err, &input) {
			t.Errorf("%v is not that of what is read", err)
		}
	})
}

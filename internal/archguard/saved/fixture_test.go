package saved_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"hatchery/internal/archguard/saved"
	"hatchery/internal/cpu"
)

// program begins like a program, which is all that it takes to be looked at.
const program = "\x7fELF, and what comes then is no program"

// An entry is a file of a layer: a folder where its name ends in /, a link where
// to says to what.
type entry struct{ name, content, to string }

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o755, Size: int64(len(e.content)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case strings.HasPrefix(e.to, "symbolic "):
			h.Typeflag, h.Linkname = tar.TypeSymlink, strings.TrimPrefix(e.to, "symbolic ")
		case e.to != "":
			h.Typeflag, h.Linkname = tar.TypeLink, e.to
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t testing.TB, text []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(text, nil)
}

// archive is what docker save writes of an image: layers by folders, each
// packed by what is in the order of pack.
func archive(t testing.TB, name string, layers [][]byte, pack ...func(testing.TB, []byte) []byte) []byte {
	t.Helper()
	config := map[string]any{"os": "linux", "architecture": "arm", "variant": "v6", "config": map[string]any{"Cmd": []string{"/x"}}}
	var diffs, names []string
	var members []entry
	for i, l := range layers {
		diffs = append(diffs, fmt.Sprintf("sha256:%x", sha256.Sum256(l)))
		if i < len(pack) {
			l = pack[i](t, l)
		}
		names = append(names, fmt.Sprintf("%d/layer.tar", i))
		members = append(members, entry{names[i], string(l), ""})
	}
	config["rootfs"] = map[string]any{"type": "layers", "diff_ids": diffs}
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	members = append(members, entry{"c.json", text(config), ""},
		entry{"manifest.json", text([]any{map[string]any{"Config": "c.json", "RepoTags": []string{name}, "Layers": names}}), ""})
	return tarOf(t, members...)
}

// seen are the paths of an image's programs, in order.
func seen(t *testing.T, stream []byte, ref string) []string {
	t.Helper()
	a, err := saved.Read(t.Context(), bytes.NewReader(stream), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return programs(t, a, ref)
}

func programs(t *testing.T, a *saved.Archive, ref string) []string {
	t.Helper()
	image, err := a.Image(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	err = image.Variants[0].Programs(t.Context(), func(path string, _ cpu.Program) error {
		paths = append(paths, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}

// ownProgram is the test's own: a real one, and large.
func ownProgram(t testing.TB) []byte {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// overlaid are layers in which each removes or replaces something.
func overlaid(t testing.TB) [][]byte {
	return [][]byte{
		tarOf(t, entry{"bin/", "", ""}, entry{"bin/kept", program, ""}, entry{"bin/replaced", program, ""}, entry{"bin/removed", program, ""}, entry{"bin/text", "#!/bin/sh\n", ""},
			entry{"opt/", "", ""}, entry{"opt/a/", "", ""}, entry{"opt/a/deep", program, ""}, entry{"usr/", "", ""}, entry{"usr/old", program, ""}, entry{"usr/b/", "", ""}, entry{"usr/b/old", program, ""},
			entry{"var/", "", ""}, entry{"var/was-a-folder/", "", ""}, entry{"var/was-a-folder/x", program, ""}, entry{"bin/link", "", "bin/kept"}),
		tarOf(t, entry{"bin/", "", ""}, entry{"bin/replaced", "no program any more", ""}, entry{"bin/.wh.removed", "", ""}, entry{"bin/text", program, ""},
			entry{"opt/", "", ""}, entry{"opt/.wh.a", "", ""}, entry{"usr/", "", ""}, entry{"usr/.wh..wh..opq", "", ""}, entry{"usr/new", program, ""},
			entry{"var/", "", ""}, entry{"var/was-a-folder", "a file", ""}),
		tarOf(t),
		tarOf(t, entry{"opt/", "", ""}, entry{"opt/a/", "", ""}, entry{"opt/a/again", program, ""}, entry{"bin/", "", ""}, entry{"bin/removed", program, ""}),
	}
}

var overlaidSees = []string{"/bin/kept", "/bin/link", "/bin/removed", "/bin/text", "/opt/a/again", "/usr/new"}

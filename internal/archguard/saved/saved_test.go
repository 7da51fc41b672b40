package saved_test

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/archguard"
	"hatchery/internal/archguard/saved"
	"hatchery/internal/cpu"
)

// TestSeen: what upper layers remove or replace is not judged, however the
// layers are packed.
func TestSeen(t *testing.T) {
	layers := overlaid(t)
	for summary, stream := range map[string][]byte{
		"plain":  archive(t, "x:1", layers),
		"packed": archive(t, "x:1", layers, gzipped, zstandard, gzipped),
	} {
		if diff := cmp.Diff(overlaidSees, seen(t, stream, "docker.io/library/x:1")); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", summary, diff)
		}
	}
}

// TestProgram: a real program is known for what it is, a large one too, and
// nothing is left of it afterwards.
func TestProgram(t *testing.T) {
	dir := t.TempDir()
	stream := archive(t, "localhost:5000/x", [][]byte{tarOf(t, entry{"test", string(ownProgram(t)), ""})}, gzipped)
	a, err := saved.Read(t.Context(), bytes.NewReader(stream), dir)
	if err != nil {
		t.Fatal(err)
	}
	image, err := a.Image(t.Context(), "localhost:5000/x:latest")
	if err != nil {
		t.Fatal(err)
	}
	if v := image.Variants[0]; !image.Single || v.Platform.String() != "linux/arm/v6" {
		t.Errorf("it is for %s, single %v", v.Platform, image.Single)
	}
	looked := false
	stop := errors.New("enough")
	err = image.Variants[0].Programs(t.Context(), func(path string, p cpu.Program) error {
		looked = path == "/test" && p.Kind.Judged() && p.Machine != elf.EM_NONE && p.Bits == 64
		return stop
	})
	if !errors.Is(err, stop) || !looked {
		t.Errorf("its program: %v, %v", looked, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("there are %v left, %v", left, err)
	}
	if _, err := a.Image(t.Context(), "y:1"); !errors.Is(err, archguard.ErrNotFound) {
		t.Errorf("of another image: %v", err)
	}
	if err := image.Variants[0].Programs(cancelled(t), func(string, cpu.Program) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("when nobody waits for it: %v", err)
	}
}

// TestShared: a layer that is a link to another's is read as that.
func TestShared(t *testing.T) {
	stream := tarOf(t, entry{"a/layer.tar", string(tarOf(t, entry{"x", program, ""})), ""}, entry{"b/layer.tar", "", "symbolic ../a/layer.tar"}, entry{"c.json", "{}", ""},
		entry{"manifest.json", `[{"Config":"c.json","RepoTags":["x:1"],"Layers":["b/layer.tar"]}]`, ""})
	if diff := cmp.Diff([]string{"/x"}, seen(t, stream, "x:1")); diff != "" {
		t.Error(diff)
	}
}

func TestNoArchive(t *testing.T) {
	layer := string(tarOf(t, entry{"x", program, ""}))
	manifest := `[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l"]}]`
	for _, c := range []struct {
		summary string
		stream  []byte
		want    string
	}{
		{"nothing", nil, "there is no manifest.json"},
		{"no tar", []byte(strings.Repeat("x", 1024)), "tar"},
		{"no layer", tarOf(t, entry{"c.json", "{}", ""}, entry{"manifest.json", manifest, ""}), `the layer "l" is not in it`},
		{"no configuration", tarOf(t, entry{"l", layer, ""}, entry{"manifest.json", manifest, ""}), `the configuration "c.json"`},
		{"links in a ring", tarOf(t, entry{"l", "", "symbolic l"}, entry{"c.json", "{}", ""}, entry{"manifest.json", manifest, ""}), `the layer "l" is not in it`},
		{"no manifest", tarOf(t, entry{"l", layer, ""}, entry{"c.json", "{}", ""}, entry{"manifest.json", "{", ""}), "its manifest.json"},
		{"a name that is none", tarOf(t, entry{"l", layer, ""}, entry{"c.json", "{}", ""}, entry{"manifest.json", strings.Replace(manifest, "x:1", "X Y", 1), ""}), "is no name of an image"},
		{"a large manifest", tarOf(t, entry{"manifest.json", "[" + strings.Repeat(" ", 5<<20) + "]", ""}), "more than any image has"},
		{"a damaged layer", tarOf(t, entry{"l", "\x1f\x8bxxxxxxxxxxxxxxxxxxxx", ""}), `"l": gzip`},
		{"one that is cut off", archive(t, "x:1", [][]byte{[]byte(layer)})[:700], "unexpected EOF"},
	} {
		_, err := saved.Read(t.Context(), bytes.NewReader(c.stream), t.TempDir())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want %s", c.summary, err, c.want)
		}
	}
	if _, err := saved.Read(cancelled(t), bytes.NewReader(archive(t, "x:1", [][]byte{[]byte(layer)})), t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("when nobody waits for it: %v", err)
	}
}

// FuzzRead: whatever the stream, it is read to an end or refused.
func FuzzRead(f *testing.F) {
	f.Add(archive(f, "x:1", overlaid(f)))
	f.Add(archive(f, "x:1", overlaid(f), gzipped, zstandard))
	f.Fuzz(func(t *testing.T, stream []byte) {
		a, err := saved.Read(t.Context(), bytes.NewReader(stream), t.TempDir())
		if err != nil {
			return
		}
		image, err := a.Image(t.Context(), "x:1")
		if err != nil {
			return
		}
		for _, v := range image.Variants {
			if err := v.Programs(t.Context(), func(string, cpu.Program) error { return nil }); err != nil {
				t.Error(err)
			}
		}
	})
}

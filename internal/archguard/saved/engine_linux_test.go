package saved_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/archguard/saved"
	"hatchery/internal/enginetest"
)

// TestAsTheEngine has a real engine lay layers over one another: what a
// container of it sees, is seen here, in what docker save writes of it.
func TestAsTheEngine(t *testing.T) {
	lab := enginetest.New(t, enginetest.Options{Slots: []int{}})
	m := lab.Controller
	if err := m.StartEngine(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	docker := func(args ...string) string {
		t.Helper()
		out, err := m.Docker(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	in := filepath.Join(dir, "in.tar")
	if err := os.WriteFile(in, archive(t, "x:1", overlaid(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	docker("load", "--input", in)
	exported, out := filepath.Join(dir, "exported.tar"), filepath.Join(dir, "out.tar")
	docker("export", "--output", exported, docker("create", "--platform", "linux/arm/v6", "--pull", "never", "x:1"))
	docker("save", "--output", out, "x:1")

	content, err := os.ReadFile(exported)
	if err != nil {
		t.Fatal(err)
	}
	var sees []string
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		begin := make([]byte, 4)
		if n, _ := io.ReadFull(r, begin); n == 4 && string(begin) == program[:4] || h.Typeflag == tar.TypeLink {
			sees = append(sees, "/"+h.Name)
		}
	}
	slices.Sort(sees)
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := saved.Read(t.Context(), f, dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sees, programs(t, a, "x:1")); diff != "" {
		t.Errorf("(-engine +here)\n%s", diff)
	}
	if !slices.Equal(sees, overlaidSees) {
		t.Errorf("a container sees %q, and the other test wants %q", sees, overlaidSees)
	}
}

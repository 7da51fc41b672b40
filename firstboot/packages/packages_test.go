package packages_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/firstboot/packages"
)

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLook(t *testing.T) {
	for _, test := range []struct {
		summary string
		files   []string
		want    packages.Left
	}{
		{"nothing", nil, packages.Left{}},
		{"a new card", []string{"packages/pending", "packages/scripts", "preload/images.tar"}, packages.Left{Configure: true, Load: true}},
		{"images only", []string{"preload/images.tar"}, packages.Left{Load: true}},
		{"triggers", []string{"packages/rest"}, packages.Left{Finish: true}},
		{"services to start", []string{"run/later", "packages/rest"}, packages.Left{Configure: true, Finish: true}},
		{"leftovers", []string{"packages/scripts", "packages/done"}, packages.Left{}},
	} {
		dir := t.TempDir()
		o := packages.Options{StateDir: dir, Calls: filepath.Join(dir, "run/later")}
		for _, name := range test.files {
			write(t, filepath.Join(dir, name), "12345")
		}
		got, err := packages.Look(o)
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", test.summary, got, err, test.want)
		}
	}
	// A folder that is a file.
	dir := t.TempDir()
	write(t, filepath.Join(dir, "packages"), "")
	if got, err := packages.Look(packages.Options{StateDir: dir, Calls: filepath.Join(dir, "later")}); err == nil {
		t.Errorf("got %+v", got)
	}
}

// loader takes images as an engine does: a piece at a time.
type loader struct {
	piece int
	got   strings.Builder
	err   error
}

func (l *loader) LoadImages(ctx context.Context, archive io.Reader) error {
	if l.err != nil {
		return l.err
	}
	_, err := io.CopyBuffer(&l.got, struct{ io.Reader }{archive}, make([]byte, l.piece))
	return err
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	o := packages.Options{StateDir: dir}
	archive := filepath.Join(dir, "preload/images.tar")
	ctx := context.Background()

	engine := &loader{piece: 100}
	if err := packages.Load(ctx, o, engine, nil); err != nil || engine.got.String() != "" {
		t.Errorf("no images: %v, %q", err, &engine.got)
	}
	text := strings.Repeat("0123456789", 100)
	write(t, archive, text)
	bad := &loader{err: errors.New("no space left on device")}
	err := packages.Load(ctx, o, bad, nil)
	if want := "cannot load the images in " + archive + " into Docker: no space left on device"; !errors.Is(err, bad.err) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := os.Stat(archive); err != nil {
		t.Fatalf("an archive that is not loaded: %v", err)
	}
	var told []string
	engine = &loader{piece: 334}
	if err := packages.Load(ctx, o, engine, func(done, total int64) { told = append(told, fmt.Sprintf("%d of %d", done, total)) }); err != nil {
		t.Fatal(err)
	}
	if engine.got.String() != text {
		t.Errorf("the engine has %q", &engine.got)
	}
	if diff := cmp.Diff([]string{"334 of 1000", "668 of 1000", "1000 of 1000"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(archive); !os.IsNotExist(err) {
		t.Errorf("the archive is left: %v", err)
	}

	// At every percent, and no more.
	write(t, archive, strings.Repeat(text, 10))
	count := 0
	if err := packages.Load(ctx, o, &loader{piece: 7}, func(int64, int64) { count++ }); err != nil || count != 100 {
		t.Errorf("told %d times, %v", count, err)
	}
	// An engine may give up before it has read anything, and an archive may be empty.
	write(t, archive, "")
	if err := packages.Load(ctx, o, &loader{piece: 7}, func(int64, int64) { t.Error("told of nothing") }); err != nil {
		t.Error(err)
	}
}

func FuzzScripts(f *testing.F) {
	f.Add([]byte("docker.io armel preinst /var/lib/dpkg/info/docker.io.preinst install\n"))
	f.Add([]byte("# a note\n\n \t\na b c d  e\x00f\r\na b c\n"))
	f.Add([]byte("a b c d"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines, err := packages.ParseScripts(text)
		if err != nil {
			return
		}
		// What is noted as done is read as what it was.
		again, err := packages.ParseScripts([]byte(strings.Join(lines, "\n")))
		if diff := cmp.Diff(lines, again); err != nil || diff != "" {
			t.Errorf("%v (-first +again):\n%s", err, diff)
		}
	})
}

func FuzzCalls(f *testing.F) {
	f.Add([]byte("deb-systemd-invoke start docker.service docker.socket\ninvoke-rc.d odd\\x2dname start\n\n"))
	f.Add([]byte("a\na \n a"))
	f.Fuzz(func(t *testing.T, text []byte) {
		seen := map[string]bool{}
		for _, call := range packages.ParseCalls(text) {
			key := strings.Join(call, " ")
			if len(call) == 0 || seen[key] {
				t.Errorf("call %q", call)
			}
			seen[key] = true
		}
	})
}

package dpkg_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/deb/debtest"
	"hatchery/imagebuilder/dpkg"
	"hatchery/internal/ext4"
	"hatchery/internal/imagetest"
)

var epoch = time.Date(2026, 5, 13, 0, 0, 0, 0, time.UTC)

// A section is a part of a file, as a device.
type section struct {
	*os.File
	start int64
}

func (s section) ReadAt(p []byte, off int64) (int, error)  { return s.File.ReadAt(p, s.start+off) }
func (s section) WriteAt(p []byte, off int64) (int, error) { return s.File.WriteAt(p, s.start+off) }

// root opens the root file system of a miniature.
func root(t testing.TB, image, codename string) *ext4.FS {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	start := imagetest.LayoutOf(codename).RootStart
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(section{f, start}, info.Size()-start)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// open makes a package of the bytes of a .deb.
func open(t testing.TB, name string, content []byte) dpkg.Package {
	t.Helper()
	d, err := deb.Open(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	return dpkg.Package{Name: name, Deb: d}
}

func TestUnpack(t *testing.T) {
	fs := root(t, imagetest.Bookworm(t), "bookworm")
	d := debtest.Build(t, debtest.Control("hello", "1.0-1", "all", "Section: misc", "Depends: libc6 (>=2)"), []debtest.File{
		debtest.Executable("/usr/bin/hello", "#!/bin/sh\n"),
		{Path: "/etc/hello.conf", Content: "x\n"},
		debtest.Symlink("/usr/bin/hi", "hello"),
	}, debtest.Conffiles("/etc/hello.conf"), debtest.Script("preinst", "#!/bin/sh\n"))
	result, err := dpkg.Unpack(context.Background(), fs, []dpkg.Package{open(t, "hello.deb", d)}, dpkg.Options{Epoch: epoch, Hold: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", result)
	for _, name := range []string{"/var/lib/dpkg/info/hello.list", dpkg.ScriptsFile, "/var/lib/dpkg/status"} {
		content, err := fs.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if at := strings.Index(string(content), "Package: hello"); at > 0 {
			content = content[at:]
		}
		t.Logf("%s\n%.900s", name, content)
	}
	_ = io.EOF
	if err := fs.Flush(); err != nil {
		t.Fatal(err)
	}
}

package debtest_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder/deb/debtest"
	"hatchery/internal/testtool"
)

// TestDpkgDebReads has dpkg-deb look at what is built.
func TestDpkgDebReads(t *testing.T) {
	files := []debtest.File{
		{Path: "/etc/hello.conf", Content: "greeting = hello\n"},
		debtest.Executable("/usr/bin/hello", "#!/bin/sh\necho hello\n"),
		debtest.HardLink("/usr/bin/hallo", "/usr/bin/hello"),
		debtest.Symlink("/usr/bin/hi", "hello"),
		{Path: "/usr/bin/su", Mode: 0o755 | fs.ModeSetuid, UID: 0, GID: 5, Group: "tty", Content: "su"},
		{Path: "/dev/null", Mode: 0o666 | fs.ModeDevice | fs.ModeCharDevice, Major: 1, Minor: 3},
		{Path: "/dev/loop0", Mode: 0o660 | fs.ModeDevice, Major: 7},
		{Path: "/run/pipe", Mode: 0o600 | fs.ModeNamedPipe},
		{Path: "/usr/share/" + strings.Repeat("long", 40) + "/name", Content: "x"},
	}
	for _, kind := range []string{"none", "gz", "xz", "zst", "bz2", "lzma"} {
		t.Run(kind, func(t *testing.T) {
			control := kind
			if kind == "bz2" || kind == "lzma" {
				control = "gz" // all that deb(5) has for control.tar
			}
			file := filepath.Join(t.TempDir(), "hello.deb")
			built := debtest.Build(t, debtest.Control("hello", "1.0-1", "armel", "Depends: libc6"), files,
				debtest.Compression(kind), debtest.ControlCompression(control),
				debtest.Conffiles("/etc/hello.conf"), debtest.Script("preinst", "#!/bin/sh\nexit 0\n"),
				debtest.ControlFile("triggers", "interest-noawait /usr/share/hello\n"))
			if err := os.WriteFile(file, built, 0o600); err != nil {
				t.Fatal(err)
			}
			got := testtool.Run(t, "dpkg-deb", "--field", file, "Package", "Version", "Depends")
			if want := "Package: hello\nVersion: 1.0-1\nDepends: libc6\n"; got != want {
				t.Errorf("dpkg-deb --field says\n%swant\n%s", got, want)
			}
			got = testtool.Run(t, "dpkg-deb", "--contents", file)
			for _, want := range []string{
				"drwxr-xr-x root/root         0 2024-02-29 12:00 ./\n",
				"-rw-r--r-- root/root        17 2024-02-29 12:00 ./etc/hello.conf\n",
				"hrwxr-xr-x root/root         0 2024-02-29 12:00 ./usr/bin/hallo link to ./usr/bin/hello\n",
				"lrwxrwxrwx root/root         0 2024-02-29 12:00 ./usr/bin/hi -> hello\n",
				"-rwsr-xr-x root/tty          2 2024-02-29 12:00 ./usr/bin/su\n",
				"crw-rw-rw- root/root       1,3 2024-02-29 12:00 ./dev/null\n",
				"brw-rw---- root/root       7,0 2024-02-29 12:00 ./dev/loop0\n",
				"prw------- root/root         0 2024-02-29 12:00 ./run/pipe\n",
				strings.Repeat("long", 40) + "/name\n",
			} {
				if !strings.Contains(got, want) {
					t.Errorf("dpkg-deb --contents does not say %q:\n%s", want, got)
				}
			}
			dir := filepath.Join(t.TempDir(), "info")
			testtool.Run(t, "dpkg-deb", "--control", file, dir)
			sums, err := os.ReadFile(filepath.Join(dir, "md5sums"))
			if err != nil {
				t.Fatal(err)
			}
			if s := string(sums); strings.Contains(s, "hello.conf") || strings.Count(s, "\n") != 4 {
				t.Errorf("md5sums is\n%s", s)
			}
			info, err := os.Stat(filepath.Join(dir, "preinst"))
			if err != nil || info.Mode() != 0o755 {
				t.Errorf("preinst: %v, %v", info, err)
			}
		})
	}
}

// TestSameBytes: what is built today can be compared with what is built
// tomorrow.
func TestSameBytes(t *testing.T) {
	build := func() []byte {
		return debtest.Build(t, debtest.Control("a", "1", "all"), []debtest.File{{
			Path: "/a", Content: "a", Xattrs: map[string]string{"user.a": "1", "user.b": "2", "user.c": "3"},
		}})
	}
	first := build()
	for range 10 {
		if !bytes.Equal(first, build()) {
			t.Fatal("the same package built again has other bytes")
		}
	}
}

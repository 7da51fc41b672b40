package deb_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/deb/debtest"
	"hatchery/internal/testtool"
)

// judged is how many real packages dpkg-deb is asked about.
const judged = 120

// packages gives real packages: those that the stand-in base images were made
// of, or else some of this machine's own, from its mirror.
func packages(t testing.TB) []string {
	t.Helper()
	all, err := filepath.Glob("../../build/base/debs/*/*.deb")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) >= judged {
		some := make([]string, judged)
		for i := range some {
			some[i] = all[i*len(all)/judged]
		}
		return some
	}
	list := exec.Command(testtool.Need(t, "dpkg-query"), "-W", "-f", "${db:Status-Status} ${Installed-Size} ${Package}\n")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		var state, name string
		var size int
		if n, _ := fmt.Sscan(line, &state, &size, &name); n == 3 && state == "installed" && size < 5000 {
			names = append(names, name)
		}
	}
	dir := t.TempDir()
	apt := testtool.Need(t, "apt-get")
	fetched, message := 0, []byte(nil)
	for _, name := range names {
		// One by one: not every package that is installed can still be had.
		fetch := exec.Command(apt, "-qq", "download", name)
		fetch.Dir = dir
		if out, err := fetch.CombinedOutput(); err != nil {
			message = out
		} else if fetched++; fetched == judged {
			break
		}
	}
	some, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	if len(some) < judged*5/6 {
		t.Logf("apt-get download: %s", message)
		testtool.Missing(t, "real packages (run `make base`, or name a Debian mirror in /etc/apt)")
	}
	return some
}

// TestAsDpkgDebReads compares what is read of real packages with what dpkg-deb
// reads, and with the checksums in them.
func TestAsDpkgDebReads(t *testing.T) {
	testtool.Need(t, "dpkg-deb")
	files := packages(t)
	if testing.Short() {
		files = files[:10]
	}
	entries, sums := 0, 0
	for _, file := range files {
		e, s := judge(t, file)
		entries += e
		sums += s
	}
	if sums < 20*len(files) {
		t.Errorf("only %d checksums were there to compare", sums)
	}
	t.Logf("%d packages, %d entries, %d checksums", len(files), entries, sums)
}

// TestAsDpkgDebReadsOurs does the same with packages built here, which have
// what real ones seldom do.
func TestAsDpkgDebReadsOurs(t *testing.T) {
	testtool.Need(t, "dpkg-deb")
	files := slices.Clone(everything)
	files = append(files,
		debtest.File{Path: "/" + strings.Repeat("long", 60) + "/" + strings.Repeat("name", 60), Content: "x"},
		debtest.Symlink("/far", strings.Repeat("very/", 100)+"far"),
		debtest.File{Path: "/a\ttab and  spaces", Content: "x"},
		debtest.File{Path: "/back\\slash", Content: "x"},
		debtest.File{Path: "/big", Zeros: 9 << 20},
	)
	for _, kind := range append(kinds, "bz2") {
		control := kind
		if kind == "bz2" || kind == "lzma" {
			control = "xz"
		}
		file := filepath.Join(t.TempDir(), "ours.deb")
		built := debtest.Build(t, debtest.Control("ours", "1:2.3~4-5", "all"), files, debtest.Compression(kind), debtest.ControlCompression(control),
			debtest.Script("postinst", "#!/bin/sh\n"), debtest.Extra("_odd", []byte("odd")))
		if err := os.WriteFile(file, built, 0o600); err != nil {
			t.Fatal(err)
		}
		judge(t, file)
	}
}

// TestAsDpkgDebBuilds reads what dpkg-deb itself makes of a tree.
func TestAsDpkgDebBuilds(t *testing.T) {
	testtool.Need(t, "dpkg-deb")
	tree := t.TempDir()
	write := func(name, content string, mode fs.FileMode) {
		t.Helper()
		name = filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("DEBIAN/control", debtest.Control("built", "1.0", "all"), 0o644)
	write("DEBIAN/postinst", "#!/bin/sh\n", 0o755)
	write("DEBIAN/conffiles", "/etc/built\n", 0o644)
	write("etc/built", "setting\n", 0o640)
	write("usr/bin/built", strings.Repeat("built ", 200_000), 0o755)
	write("usr/share/"+strings.Repeat("long", 40)+"/"+strings.Repeat("name", 40), "long\n", 0o644)
	if err := os.Link(filepath.Join(tree, "usr/bin/built"), filepath.Join(tree, "usr/bin/linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("built", filepath.Join(tree, "usr/bin/symlinked")); err != nil {
		t.Fatal(err)
	}
	for _, options := range [][]string{
		{"-Znone"}, {"-Zgzip"}, {"-Zgzip", "-z1"}, {"-Zxz"}, {"-Zxz", "-z9", "-Sextreme"}, {"-Zzstd"}, {"-Zzstd", "-z22"},
		{"--uniform-compression", "-Znone"}, {"--no-uniform-compression", "-Zzstd"},
	} {
		file := filepath.Join(t.TempDir(), "built.deb")
		testtool.Run(t, "dpkg-deb", append(append([]string{"--root-owner-group"}, options...), "--build", tree, file)...)
		if entries, _ := judge(t, file); entries != 11 {
			t.Errorf("%s: %d entries", options, entries)
		}
	}
}

// judge compares one package; it says how many entries and checksums there
// were.
func judge(t *testing.T, name string) (entries, sums int) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it is read only
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	name = filepath.Base(name)
	d, err := deb.Open(f, info.Size())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	control, err := d.Control()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	judgeControl(t, f.Name(), control)

	raw := d.DataTar(t.Context())
	tarfile := exec.Command("dpkg-deb", "--fsys-tarfile", f.Name())
	theirs, err := tarfile.StdoutPipe()
	if err == nil {
		err = tarfile.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if at, err := sameBytes(raw, theirs); err != nil {
		t.Errorf("%s: data.tar is not as dpkg-deb --fsys-tarfile gives it: at byte %d, %v", name, at, err)
	}
	if err := tarfile.Wait(); err != nil {
		t.Errorf("%s: dpkg-deb: %v", name, err)
	}
	raw.Close() //nolint:errcheck // always nil

	list := exec.Command("dpkg-deb", "--contents", f.Name())
	list.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	listed, err := list.Output()
	if err != nil {
		t.Fatalf("%s: dpkg-deb --contents: %v", name, err)
	}
	want := map[string]string{} // checksums by path
	if f := control.File("md5sums"); f != nil {
		for line := range strings.Lines(string(f.Content)) {
			sum, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			want["/"+strings.TrimLeft(path, " *")] = sum
		}
	}
	var ours strings.Builder
	err = walk(contents(t, d), func(e *deb.Entry, content []byte) {
		entries++
		ours.WriteString(likeTar(e))
		if sum, ok := want[e.Path]; ok && e.Mode.IsRegular() && !e.HardLink {
			sums++
			if got := md5.Sum(content); hex.EncodeToString(got[:]) != sum {
				t.Errorf("%s: %s: the content is not what md5sums says", name, e.Path)
			}
		}
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if diff := cmp.Diff(columns.ReplaceAllString(string(listed), "$1 $2 $3 $4"), ours.String()); diff != "" {
		t.Errorf("%s: the contents (-dpkg-deb +ours):\n%s", name, diff)
	}
	return entries, sums
}

// columns are what tar aligns with spaces.
var columns = regexp.MustCompile(`(?m)^(\S+) (\S+/\S+) +(\S+) (\d+-\d+-\d+ \d+:\d+)`)

// likeTar writes an entry as `tar -tv` does in the C locale, but with single
// spaces between the columns.
func likeTar(e *deb.Entry) string {
	kind, size := "-", fmt.Sprint(e.Size)
	switch {
	case e.HardLink:
		kind = "h"
	case e.Mode.IsDir():
		kind = "d"
	case e.Mode&fs.ModeSymlink != 0:
		kind = "l"
	case e.Mode&fs.ModeDevice != 0:
		size = fmt.Sprintf("%d,%d", e.Major, e.Minor)
		kind = "b"
		if e.Mode&fs.ModeCharDevice != 0 {
			kind = "c"
		}
	case e.Mode&fs.ModeNamedPipe != 0:
		kind = "p"
	}
	perm := []byte(e.Mode.Perm().String()[1:])
	for _, special := range []struct {
		bit       fs.FileMode
		at        int
		with, off byte
	}{{fs.ModeSetuid, 2, 's', 'S'}, {fs.ModeSetgid, 5, 's', 'S'}, {fs.ModeSticky, 8, 't', 'T'}} {
		if e.Mode&special.bit != 0 {
			if perm[special.at] == 'x' {
				perm[special.at] = special.with
			} else {
				perm[special.at] = special.off
			}
		}
	}
	owner, group := e.User, e.Group
	if owner == "" {
		owner = fmt.Sprint(e.UID)
	}
	if group == "" {
		group = fmt.Sprint(e.GID)
	}
	name := "." + e.Path
	if e.Mode.IsDir() && e.Path != "/" {
		name += "/"
	}
	switch e.Path { // two that are written differently in this test's own packages
	case "/no-dot":
		name = "no-dot"
	case "/usr/share/doc/x":
		if e.Size == 1 {
			name = ".//usr/./share//doc/x"
		}
	}
	line := fmt.Sprintf("%s%s %s/%s %s %s %s", kind, perm, owner, group, size, e.ModTime.UTC().Format("2006-01-02 15:04"), quoted(name))
	switch kind {
	case "h":
		line += " link to " + quoted("."+e.Target)
	case "l":
		line += " -> " + quoted(e.Target)
	}
	return line + "\n"
}

// quoted writes a name as tar does.
func quoted(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c == '\\':
			b.WriteString(`\\`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// judgeControl compares the control files with those that dpkg-deb unpacks.
func judgeControl(t *testing.T, file string, control *deb.Control) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "control")
	testtool.Run(t, "dpkg-deb", "--control", file, dir)
	show := func(name string, mode fs.FileMode, content []byte) string {
		return fmt.Sprintf("%v %s %x\n", mode, name, md5.Sum(content))
	}
	var theirs, ours []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() == "control" {
			if !bytes.Equal(content, control.Raw) {
				t.Errorf("%s: the control file is\n%s\nnot\n%s", file, control.Raw, content)
			}
			continue
		}
		theirs = append(theirs, show(e.Name(), info.Mode(), content))
	}
	for _, f := range control.Files {
		ours = append(ours, show(f.Name, f.Mode, f.Content))
	}
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("%s: the control files (-dpkg-deb +ours):\n%s", file, diff)
	}
	for _, field := range []string{"Package", "Version", "Architecture", "Depends", "Installed-Size"} {
		got := strings.Join(strings.Fields(control.Paragraph.Get(field)), " ")
		want := strings.Join(strings.Fields(testtool.Run(t, "dpkg-deb", "--field", file, field)), " ")
		if got != want {
			t.Errorf("%s: %s is %q, not %q", file, field, got, want)
		}
	}
}

// sameBytes compares two streams to their ends.
func sameBytes(a, b io.Reader) (at int64, err error) {
	one, other := make([]byte, 1<<16), make([]byte, 1<<16)
	for {
		n, errA := io.ReadFull(a, one)
		m, errB := io.ReadFull(b, other)
		if !bytes.Equal(one[:n], other[:m]) {
			return at, errors.New("the bytes differ")
		}
		at += int64(n)
		endA := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
		endB := errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)
		switch {
		case endA && endB:
			return at, nil
		case errA != nil && !endA:
			return at, errA
		case errB != nil && !endB:
			return at, errB
		}
	}
}

// TestBesideDpkg: what dpkg itself makes of odd packages. It takes a path that
// leaves the root, and has no way to keep extended attributes.
func TestBesideDpkg(t *testing.T) {
	testtool.Need(t, "dpkg")
	testtool.NeedRoot(t)
	for _, c := range []struct {
		summary string
		file    debtest.File
		ours    bool // whether it is read here
		theirs  bool
	}{
		{"a plain file", debtest.File{Path: "/x", Content: "x"}, true, true},
		{"extended attributes", debtest.File{Path: "/x", Content: "x", Xattrs: map[string]string{"user.x": "x"}}, true, false},
		{"a hard link to what is not there", debtest.HardLink("/x", "/nowhere"), false, false},
		{"elsewhere", debtest.File{Path: "./../x", Content: "x"}, false, true},
	} {
		t.Run(c.summary, func(t *testing.T) {
			built := debtest.Build(t, debtest.Control("a", "1", "all"), []debtest.File{c.file}, debtest.WithoutParents())
			err := walk(contents(t, open(t, built)), nil)
			if (err == nil) != c.ours {
				t.Errorf("here: %v", err)
			}
			outer := t.TempDir()
			root := filepath.Join(outer, "root")
			for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(outer, "a.deb")
			for name, content := range map[string][]byte{file: built, filepath.Join(root, "var/lib/dpkg/status"): nil} {
				if err := os.WriteFile(name, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out, err := exec.CommandContext(ctx, "dpkg", "--root="+root, "--log=/dev/null", "--force-not-root", "--unpack", file).CombinedOutput()
			if (err == nil) != c.theirs {
				t.Errorf("dpkg: %v\n%s", err, out)
			}
		})
	}
}

package deb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/deb/debtest"
)

const plenty = 1 << 30

func open(t testing.TB, file []byte) *deb.Deb {
	t.Helper()
	d, err := deb.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func contents(t testing.TB, d *deb.Deb) *deb.Contents {
	t.Helper()
	c, err := d.Data(t.Context(), plenty)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// walk reads a package's files to their end.
func walk(c *deb.Contents, each func(*deb.Entry, []byte)) error {
	for {
		e, err := c.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(c)
		if err != nil {
			return err
		}
		if each != nil {
			each(e, content)
		}
	}
}

// show writes an entry in one line.
func show(e *deb.Entry, content []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %d:%d(%s:%s) %s %s", e.Mode, e.UID, e.GID, e.User, e.Group, e.ModTime.UTC().Format(time.RFC3339), e.Path)
	switch {
	case e.HardLink:
		b.WriteString(" = " + e.Target)
	case e.Mode&fs.ModeSymlink != 0:
		b.WriteString(" -> " + e.Target)
	case e.Mode&fs.ModeDevice != 0:
		fmt.Fprintf(&b, " %d,%d", e.Major, e.Minor)
	case e.Mode.IsRegular():
		fmt.Fprintf(&b, " %d %q", e.Size, content)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		fmt.Fprintf(&b, " %s=%q", name, e.Xattrs[name])
	}
	b.WriteByte('\n')
	return b.String()
}

var everything = []debtest.File{
	debtest.Dir("/"),
	{Path: "/etc/hello.conf", Content: "greeting = hello\n", ModTime: time.Date(1999, 12, 31, 23, 59, 58, 0, time.UTC)},
	debtest.Executable("/usr/bin/hello", "#!/bin/sh\n"),
	debtest.HardLink("/usr/bin/hallo", "/usr/bin/hello"),
	debtest.Symlink("/usr/bin/hi", "/../hello"),
	{Path: "/usr/bin/su", Mode: 0o755 | fs.ModeSetuid | fs.ModeSetgid, GID: 5, Group: "tty", Content: "su"},
	{Path: "/tmp/", Mode: fs.ModeDir | 0o777 | fs.ModeSticky, UID: 70000, User: "", GID: 3_000_000_000},
	{Path: "/dev/null", Mode: 0o666 | fs.ModeDevice | fs.ModeCharDevice, Major: 1, Minor: 3},
	{Path: "/dev/loop0", Mode: 0o660 | fs.ModeDevice, Major: 7},
	{Path: "/run/pipe", Mode: 0o600 | fs.ModeNamedPipe},
	{Path: "/usr/bin/ping", Mode: 0o755, Content: "ping", Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02", "user.a": ""}},
	{Path: "no-dot", Content: "x"},
	{Path: ".//usr/./share//doc/x", Content: "y"},
	{Path: "/gr\xfc\xdf", Content: ""},
}

const everythingShown = `drwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /
drwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /etc
-rw-r--r-- 0:0(root:root) 1999-12-31T23:59:58Z /etc/hello.conf 17 "greeting = hello\n"
drwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /usr
drwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /usr/bin
-rwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /usr/bin/hello 10 "#!/bin/sh\n"
-rwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /usr/bin/hallo = /usr/bin/hello
Lrwxrwxrwx 0:0(root:root) 2024-02-29T12:00:00Z /usr/bin/hi -> /../hello
ugrwxr-xr-x 0:5(root:tty) 2024-02-29T12:00:00Z /usr/bin/su 2 "su"
dtrwxrwxrwx 70000:3000000000(:) 2024-02-29T12:00:00Z /tmp
drwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /dev
Dcrw-rw-rw- 0:0(root:root) 2024-02-29T12:00:00Z /dev/null 1,3
Drw-rw---- 0:0(root:root) 2024-02-29T12:00:00Z /dev/loop0 7,0
drwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /run
prw------- 0:0(root:root) 2024-02-29T12:00:00Z /run/pipe
-rwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /usr/bin/ping 4 "ping" security.capability="\x01\x00\x00\x02" user.a=""
-rw-r--r-- 0:0(root:root) 2024-02-29T12:00:00Z /no-dot 1 "x"
drwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /usr/share
drwxr-xr-x 0:0(root:root) 2024-02-29T12:00:00Z /usr/share/doc
-rw-r--r-- 0:0(root:root) 2024-02-29T12:00:00Z /usr/share/doc/x 1 "y"
-rw-r--r-- 0:0(root:root) 2024-02-29T12:00:00Z /gr` + "\xfc\xdf" + ` 0 ""
`

// kinds are the ways in which a data.tar can be packed that need no tool to be
// made.
var kinds = []string{"none", "gz", "xz", "zst", "lzma"}

func TestData(t *testing.T) {
	for _, kind := range append(kinds, "bz2") {
		t.Run(kind, func(t *testing.T) {
			file := debtest.Build(t, debtest.Control("hello", "1", "armel"), everything, debtest.Compression(kind))
			var got strings.Builder
			if err := walk(contents(t, open(t, file)), func(e *deb.Entry, content []byte) { got.WriteString(show(e, content)) }); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(everythingShown, got.String()); diff != "" {
				t.Errorf("the package's files (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSkippedContent: what a caller does not read makes no difference to what
// comes after.
func TestSkippedContent(t *testing.T) {
	files := []debtest.File{
		{Path: "/a", Zeros: 9 << 20}, {Path: "/b", Content: strings.Repeat("b", 1000)}, {Path: "/c", Content: "c"},
	}
	c := contents(t, open(t, debtest.Build(t, debtest.Control("a", "1", "all"), files, debtest.WithoutMD5Sums())))
	var got []string
	for {
		e, err := c.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Path, " ", e.Size))
		if e.Path == "/b" {
			if _, err := io.ReadFull(c, make([]byte, 7)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff([]string{"/ 0", "/a 9437184", "/b 1000", "/c 1"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// TestOldTar: tar as it was before POSIX, and what GNU's makes of long names.
func TestOldTar(t *testing.T) {
	long := "/" + strings.Repeat("long", 50) + "/" + strings.Repeat("name", 60)
	old := debtest.Tar(t, debtest.Dir("./"), debtest.File{Path: "./usr/", Mode: fs.ModeDir}, debtest.File{Path: "./usr/x", Content: "x"})
	for at := 0; at+512 <= len(old); at += 512 {
		h := old[at : at+512]
		if !bytes.HasPrefix(h[257:], []byte("ustar")) {
			continue
		}
		// V7 knows neither magic nor names of owners, and writes folders as
		// files whose names end in a slash.
		clear(h[257:])
		h[156] = 0
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	for _, c := range []struct {
		summary string
		tar     []byte
		want    string
	}{
		{"V7", old, "drwxr-xr-x 0:0(:) /\ndrwxr-xr-x 0:0(:) /usr\n-rw-r--r-- 0:0(:) /usr/x\n"},
		{"GNU's long names", debtest.Tar(t, debtest.File{Path: long, Content: "x"}, debtest.HardLink("/x", long), debtest.Symlink("/y", long)),
			"-rw-r--r-- 0:0(root:root) " + long + "\n-rw-r--r-- 0:0(root:root) /x\nLrwxrwxrwx 0:0(root:root) /y\n"},
		{"nothing at all", nil, ""},
		{"nothing but zeros", make([]byte, 10240), ""},
		{"no zeros at the end", bytes.TrimRight(old, "\x00"), "drwxr-xr-x 0:0(:) /\ndrwxr-xr-x 0:0(:) /usr\n-rw-r--r-- 0:0(:) /usr/x\n"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			var got strings.Builder
			err := walk(contents(t, open(t, whole(t, c.tar))), func(e *deb.Entry, content []byte) {
				fmt.Fprintf(&got, "%v %d:%d(%s:%s) %s\n", e.Mode, e.UID, e.GID, e.User, e.Group, e.Path)
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// whole makes a package of a data.tar.
func whole(t testing.TB, data []byte) []byte {
	return debtest.Archive(
		debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")},
		debtest.Member{Name: "control.tar", Content: debtest.Tar(t, debtest.File{Path: "./control", Content: debtest.Control("a", "1", "all")})},
		debtest.Member{Name: "data.tar", Content: data},
	)
}

func TestControl(t *testing.T) {
	text := debtest.Control("docker.io", "20.10.24+dfsg1-1", "armel", "Depends: containerd (>= 1.2.6~), adduser", "Description: Linux container runtime\n It runs containers.\n .\n Really.")
	for _, kind := range []string{"none", "gz", "xz", "zst"} {
		t.Run(kind, func(t *testing.T) {
			d := open(t, debtest.Build(t, text, everything, debtest.ControlCompression(kind), debtest.Conffiles("/etc/hello.conf"),
				debtest.Script("preinst", "#!/bin/sh\n"), debtest.ControlFile("triggers", "interest /x\n"),
				debtest.ControlEntry(debtest.File{Path: "./odd", Mode: 0o700 | fs.ModeSetuid})))
			c, err := d.Control()
			if err != nil {
				t.Fatal(err)
			}
			if string(c.Raw) != text {
				t.Errorf("the control file is\n%s\nwant\n%s", c.Raw, text)
			}
			if got := c.Paragraph.Get("Depends"); got != "containerd (>= 1.2.6~), adduser" {
				t.Errorf("Depends: %q", got)
			}
			var got strings.Builder
			for _, f := range c.Files {
				if f.Name == "md5sums" {
					f.Content = f.Content[:bytes.IndexByte(f.Content, '\n')]
				}
				fmt.Fprintf(&got, "%v %s %q\n", f.Mode, f.Name, f.Content)
			}
			want := `-rw-r--r-- conffiles "/etc/hello.conf\n"
-rw-r--r-- md5sums "3e2b31c72181b87149ff995e7202c0e3  usr/bin/hello"
urwx------ odd ""
-rwxr-xr-x preinst "#!/bin/sh\n"
-rw-r--r-- triggers "interest /x\n"
`
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Error(diff)
			}
			if f := c.File("preinst"); f == nil || string(f.Content) != "#!/bin/sh\n" {
				t.Errorf("File finds %v", f)
			}
			if f := c.File("prerm"); f != nil {
				t.Errorf("File finds %v, which is not there", f)
			}
		})
	}
}

// TestFraming: what an ar archive may look like and still be a package.
func TestFraming(t *testing.T) {
	version := debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")}
	control := debtest.Member{Name: "control.tar", Content: debtest.Tar(t, debtest.File{Path: "./control", Content: debtest.Control("a", "1", "all")})}
	data := debtest.Member{Name: "data.tar", Content: debtest.Tar(t, debtest.File{Path: "/x", Content: "x"})}
	named := func(m debtest.Member, name string) debtest.Member { m.Name = name; return m }
	odd := func(name string) debtest.Member { return debtest.Member{Name: name, Content: []byte("odd")} }
	for _, c := range []struct {
		summary string
		file    []byte
	}{
		{"as dpkg-deb makes them", debtest.Archive(version, control, data)},
		{"as GNU ar makes them", debtest.Archive(named(version, "debian-binary/"), named(control, "control.tar/"), named(data, "data.tar/"))},
		{"members to skip", debtest.Archive(version, odd("_a"), odd("_b"), control, odd("_c"), data, odd("_d"))},
		{"a signature at the end", debtest.Archive(version, control, data, odd("_gpgorigin"))},
		{"something unknown at the end", debtest.Archive(version, control, data, odd("later"))},
		{"no padding at the end", bytes.TrimSuffix(debtest.Archive(version, control, data, odd("later")), []byte("\n"))},
		{"other padding", bytes.ReplaceAll(debtest.Archive(version, odd("_a"), control, data), []byte("odd\n"), []byte("odd\x00"))},
		{"a later minor version", debtest.Archive(debtest.Member{Name: version.Name, Content: []byte("2.17\nmore\n")}, control, data)},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d := open(t, c.file)
			if _, err := d.Control(); err != nil {
				t.Error(err)
			}
			var got string
			if err := walk(contents(t, d), func(e *deb.Entry, content []byte) { got += e.Path + string(content) }); err != nil {
				t.Error(err)
			}
			if got != "/xx" {
				t.Errorf("the contents are %q", got)
			}
		})
	}
}

// TestTwoReaders: one package's parts can be read side by side, and again.
func TestTwoReaders(t *testing.T) {
	d := open(t, debtest.Build(t, debtest.Control("a", "1", "all"), everything))
	a, b := contents(t, d), contents(t, d)
	for {
		x, errX := a.Next()
		y, errY := b.Next()
		if _, err := d.Control(); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(errX, errY) {
			t.Fatalf("%v, %v", errX, errY)
		}
		if errX != nil {
			if !errors.Is(errX, io.EOF) {
				t.Fatal(errX)
			}
			return
		}
		if x.Path != y.Path {
			t.Fatalf("%s, %s", x.Path, y.Path)
		}
	}
}

// TestReadError: trouble with reading the file is not the package's fault.
func TestReadError(t *testing.T) {
	broken := errors.New("input/output error")
	file := debtest.Build(t, debtest.Control("a", "1", "all"), []debtest.File{{Path: "/x", Content: strings.Repeat("x", 1<<16)}}, debtest.Compression("none"))
	var wrong *deb.FormatError
	for _, good := range []int64{0, 10, 70, 100} {
		_, err := deb.Open(&failing{bytes.NewReader(file), good, broken}, int64(len(file)))
		if !errors.Is(err, broken) || errors.As(err, &wrong) {
			t.Errorf("Open, with %d good bytes: %v", good, err)
		}
	}
	for _, kind := range kinds {
		file := debtest.Build(t, debtest.Control("a", "1", "all"), everything, debtest.Compression(kind), debtest.ControlCompression("gz"))
		f := &failing{bytes.NewReader(file), int64(len(file)), broken}
		d, err := deb.Open(f, int64(len(file)))
		if err != nil {
			t.Fatal(err)
		}
		f.good = 140
		if _, err := d.Control(); !errors.Is(err, broken) || errors.As(err, &wrong) {
			t.Errorf("Control: %v", err)
		}
		f.good = int64(len(file)) - 100
		c, err := d.Data(t.Context(), plenty)
		if err != nil {
			t.Fatal(err)
		}
		if err := walk(c, nil); !errors.Is(err, broken) || errors.As(err, &wrong) {
			t.Errorf("%s: Data: %v", kind, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A failing reader cannot read beyond a number of bytes.
type failing struct {
	r    io.ReaderAt
	good int64
	err  error
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.good {
		return 0, f.err
	}
	return f.r.ReadAt(p, off)
}

// TestCancelled: a context that ends, ends reading, with its own error.
func TestCancelled(t *testing.T) {
	file := debtest.Build(t, debtest.Control("a", "1", "all"), []debtest.File{{Path: "/x", Zeros: 24 << 20}}, debtest.WithoutMD5Sums(), debtest.Compression("zst"))
	d := open(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	c, err := d.Data(ctx, plenty)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // always nil
	if _, err := c.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Read: %v", err)
	}
	if _, err := c.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("Next: %v", err)
	}
	if _, err := d.Data(ctx, plenty); !errors.Is(err, context.Canceled) {
		t.Errorf("Data: %v", err)
	}
}

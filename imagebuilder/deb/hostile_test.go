package deb_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/deb/debtest"
)

// refused checks that an error is a FormatError of a member which says this.
func refused(t *testing.T, err error, member, want string) {
	t.Helper()
	var wrong *deb.FormatError
	if !errors.As(err, &wrong) {
		t.Fatalf("the error is %v, no FormatError", err)
	}
	if wrong.Member != member {
		t.Errorf("the member is %q, not %q", wrong.Member, member)
	}
	if got := err.Error(); !strings.Contains(got, want) {
		t.Errorf("the error is\n%s\nand does not say\n%s", got, want)
	}
	if strings.ContainsAny(err.Error(), "\x00\n") {
		t.Errorf("the error %q is not fit to be shown", err)
	}
}

func TestNoPackage(t *testing.T) {
	version := debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")}
	control := debtest.Member{Name: "control.tar", Content: debtest.Tar(t, debtest.File{Path: "./control", Content: debtest.Control("a", "1", "all")})}
	data := debtest.Member{Name: "data.tar", Content: debtest.Tar(t, debtest.Dir("./"))}
	named := func(m debtest.Member, name string) debtest.Member { m.Name = name; return m }
	good := debtest.Archive(version, control, data)
	edited := func(at int, text string) []byte {
		return append(append(bytes.Clone(good[:at]), text...), good[at+len(text):]...)
	}
	tail := debtest.Archive(version, control, data, debtest.Member{Name: "later"})
	for _, c := range []struct {
		summary      string
		file         []byte
		member, want string
	}{
		{"empty", nil, "", "at byte 0: the file is empty"},
		{"short", []byte("!<arch"), "", "at byte 0: not a Debian package"},
		{"something else", []byte("<html>404 not found</html>"), "", "at byte 0: not a Debian package"},
		{"the old format", []byte("0.939000\n1234\n"), "", "before 1995"},
		{"only the magic", good[:8], "", "its first member is not debian-binary"},
		{"another ar archive", debtest.Archive(named(version, "a.o/")), "", "its first member is not debian-binary"},
		{"cut in a header", good[:100], "", "at byte 72: the file ends within the header of a member; was it downloaded whole?"},
		{"cut in a member", good[:200], "", `at byte 72: the member "control.tar" has 2048 bytes, but the file only 68 more`},
		{"cut after debian-binary", good[:72], "", "at byte 72: the package ends before its control.tar"},
		{"no data", debtest.Archive(version, control), "", "the package ends before its data.tar"},
		{"no control", debtest.Archive(version, data), "", "at byte 72: data.tar comes before control.tar"},
		{"the wrong way round", debtest.Archive(version, data, control), "", "data.tar comes before control.tar"},
		{"debian-binary later", debtest.Archive(control, version, data), "", "its first member is not debian-binary"},
		{"debian-binary twice", debtest.Archive(version, version, control, data), "", "at byte 72: a second member debian-binary"},
		{"control twice", debtest.Archive(version, control, named(control, "control.tar.gz"), data), "", "a second member control.tar.gz, after control.tar"},
		{"data twice", debtest.Archive(version, control, data, named(data, "data.tar.xz")), "", "a second member data.tar.xz, after data.tar"},
		{"control after data", debtest.Archive(version, control, data, control), "", "a second member control.tar, after control.tar"},
		{"unknown before data", debtest.Archive(version, control, named(data, "x"), data), "", `an unknown member "x"`},
		{"unknown before control", debtest.Archive(version, named(data, "control"), control, data), "", `an unknown member "control"`},
		{"almost data", debtest.Archive(version, control, named(data, "data.tarnish")), "", `an unknown member "data.tarnish"`},
		{"long names", debtest.Archive(version, named(data, "//"), control, data), "", `an unknown member "/"`},
		{"unknown compression", debtest.Archive(version, control, named(data, "data.tar.br")), "", "data.tar.br is compressed in a way that no Debian package is"},
		{"compression of data only", debtest.Archive(version, named(control, "control.tar.bz2"), data), "", "control.tar.bz2 is compressed in a way"},
		{"size no number", edited(72+48, "10x40     "), "", `at byte 72: the member "control.tar" has the size "10x40"`},
		{"size negative", edited(72+48, "-1        "), "", `the size "-1"`},
		{"size with a plus", edited(72+48, "+10240    "), "", `the size "+10240"`},
		{"size empty", edited(72+48, "          "), "", `the size ""`},
		{"size huge", edited(72+48, "9999999999"), "", `has 9999999999 bytes, but the file only`},
		{"header without end", edited(72+58, "xx"), "", "at byte 72: here should be the header of a member"},
		{"header askew", edited(8+48, "6         "), "", "at byte 74: here should be the header of a member"},
		{"garbage at the end", append(bytes.Clone(good), make([]byte, 100)...), "", "here should be the header of a member"},
		{"cut in what follows", tail[:len(tail)-10], "", "the file ends within the header"},
		{"many members", debtest.Archive(append([]debtest.Member{version}, many("_x", 100)...)...), "", "more than 64 members"},
		{"version 3", debtest.Archive(debtest.Member{Name: "debian-binary", Content: []byte("3.0\n")}, control, data), "debian-binary", "only version 2 is known"},
		{"no version", debtest.Archive(debtest.Member{Name: "debian-binary", Content: []byte("2\n")}, control, data), "debian-binary", `"2\n" is no version number`},
		{"version without line end", debtest.Archive(debtest.Member{Name: "debian-binary", Content: []byte("2.0")}, control, data), "debian-binary", `"2.0" is no version number`},
		{"version long", debtest.Archive(debtest.Member{Name: "debian-binary", Content: make([]byte, 5000)}, control, data), "debian-binary", `it has 5000 bytes`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			_, err := deb.Open(bytes.NewReader(c.file), int64(len(c.file)))
			refused(t, err, c.member, c.want)
		})
	}
	t.Run("shorter than is said", func(t *testing.T) {
		_, err := deb.Open(bytes.NewReader(good[:100]), int64(len(good)))
		refused(t, err, "", "at byte 100: the file ends here, and should not")
	})
}

func many(name string, n int) []debtest.Member {
	all := make([]debtest.Member, n)
	for i := range all {
		all[i].Name = name
	}
	return all
}

func TestRefusedData(t *testing.T) {
	edit := func(f func(*tar.Header)) []debtest.File {
		return []debtest.File{debtest.Dir("./"), {Path: "./x", Content: "x", Edit: f}}
	}
	pax := func(key, value string) []debtest.File {
		return edit(func(h *tar.Header) { h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{key: value} })
	}
	file := func(path string) []debtest.File { return []debtest.File{{Path: path}} }
	for _, c := range []struct {
		summary string
		files   []debtest.File
		want    string
	}{
		{"..", file("../x"), `data.tar, at byte 0: the path "../x" leads elsewhere`},
		{".. in the midst", file("./a/../../x"), "leads elsewhere"},
		{".. that stays inside", file("./a/../x"), "leads elsewhere"},
		{".. at the end", file("./a/.."), "leads elsewhere"},
		{"a hard link to ..", []debtest.File{{Path: "./x"}, debtest.HardLink("./y", "./../x")}, `at byte 512: "/y" is a hard link: the path "./../x" leads elsewhere`},
		{"a hard link to the system", []debtest.File{debtest.HardLink("./y", "/etc/shadow")}, `"/y" is a hard link to "/etc/shadow", which is no file that comes before it`},
		{"a hard link forwards", []debtest.File{debtest.HardLink("./y", "./x"), {Path: "./x"}}, "no file that comes before it"},
		{"a hard link to itself", []debtest.File{debtest.HardLink("./y", "./y")}, "no file that comes before it"},
		{"a hard link to a folder", []debtest.File{debtest.Dir("./x"), debtest.HardLink("./y", "./x")}, "no file that comes before it"},
		{"a hard link to what became a folder", []debtest.File{{Path: "./x"}, debtest.Dir("./x"), debtest.HardLink("./y", "./x")}, "no file that comes before it"},
		{"a hard link to nothing", []debtest.File{{Path: "./y", Edit: func(h *tar.Header) { h.Typeflag = tar.TypeLink }}}, "is a hard link: a file without a name"},
		{"a symbolic link to nothing", []debtest.File{debtest.Symlink("./y", "")}, `"/y" is a symbolic link to nothing`},
		{"a long symbolic link", []debtest.File{debtest.Symlink("./y", strings.Repeat("x/", 3000))}, "a symbolic link to what is no path"},
		{"the root as a file", file("."), "the root is not a folder"},
		{"the root as a symbolic link", []debtest.File{debtest.Symlink("./", "/x")}, "the root is not a folder"},
		{"a line break", file("./a\nb"), `the path "./a\nb" has a line break`},
		{"a long name", file("./" + strings.Repeat("x", 256)), "a name of more than 255 bytes"},
		{"a long path", file("./" + strings.Repeat("x/", 2048) + "x"), "has more than 4095 bytes"},
		{"a contiguous file", edit(func(h *tar.Header) { h.Typeflag, h.Size = tar.TypeCont, 0 }), `"./x" is of the type '7', which no package has`},
		{"an unknown type", edit(func(h *tar.Header) { h.Typeflag, h.Size = 'Z', 0 }), "of the type 'Z'"},
		{"a global PAX header", []debtest.File{{Path: "./x", Edit: func(h *tar.Header) {
			*h = tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}
		}}}, "of the type 'g'"},
		{"a negative owner", edit(func(h *tar.Header) { h.Uid = -1 }), `"/x" has the owner -1`},
		{"a huge group", edit(func(h *tar.Header) { h.Gid = 1 << 32 }), `"/x" has the group 4294967296`},
		{"a huge device", []debtest.File{{Path: "./x", Mode: fs.ModeDevice, Major: 1 << 40}}, `"/x" has the device number 1099511627776`},
		{"a strange mode", edit(func(h *tar.Header) { h.Mode = 0o7777777 }), "the mode 7777777"},
		{"an attribute without a name", pax("SCHILY.xattr.", "x"), "extended attributes that there cannot be"},
		{"many attributes", pax("SCHILY.xattr.user.x", strings.Repeat("x", 1<<16)), "extended attributes that there cannot be"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			err := walk(contents(t, open(t, whole(t, debtest.Tar(t, c.files...)))), nil)
			refused(t, err, "data.tar", c.want)
		})
	}
}

// TestDamagedTar: tar archives that no library would write.
func TestDamagedTar(t *testing.T) {
	good := debtest.Tar(t, debtest.File{Path: "./x", Content: strings.Repeat("x", 1000)}, debtest.File{Path: "./y", Content: "y"})
	sparse := holes(good)
	for _, c := range []struct {
		summary string
		tar     []byte
		want    string
	}{
		{"no tar", bytes.Repeat([]byte("tar?"), 300), "data.tar, at byte 0: here should be a tar header, and is not"},
		{"cut in a header", good[:100], "the tar archive ends within a file"},
		{"cut in a file", good[:1000], "data.tar, at byte 1000: the tar archive ends within a file"},
		{"a wrong checksum", flipped(good, 10), "at byte 0: here should be a tar header"},
		{"a wrong checksum later", flipped(good, 1536+10), "at byte 1536: here should be a tar header"},
		{"holes", sparse, `"./x" is of the type 'S', which no package has`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			refused(t, walk(contents(t, open(t, whole(t, c.tar))), nil), "data.tar", c.want)
		})
	}
}

func flipped(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[at] ^= 0x10
	return data
}

// holes makes the first file one with holes, in GNU's old way: 8 GiB of them.
func holes(archive []byte) []byte {
	archive = bytes.Clone(archive)
	h := archive[:512]
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	clear(h[386:512])
	copy(h[386:], fmt.Sprintf("%011o\x00%011o\x00", 0, 1000))
	copy(h[483:], fmt.Sprintf("%011o\x00", int64(1)<<32))
	copy(h[148:], fmt.Sprintf("%06o", sumOf(h)))
	return archive
}

// TestPAXHoles: the same in PAX, which archive/tar would show as an ordinary
// file.
func TestPAXHoles(t *testing.T) {
	record := func(key, value string) string {
		n := len(key) + len(value) + 3
		for n != len(key)+len(value)+3+len(fmt.Sprint(n)) {
			n = len(key) + len(value) + 3 + len(fmt.Sprint(n))
		}
		return fmt.Sprintf("%d %s=%s\n", n, key, value)
	}
	records := record("GNU.sparse.major", "0") + record("GNU.sparse.minor", "1") + record("GNU.sparse.name", "./big") +
		record("GNU.sparse.size", "8589934592") + record("GNU.sparse.numblocks", "1") + record("GNU.sparse.map", "0,1")
	data := debtest.Tar(t, debtest.File{Path: "./PaxHeaders/x", Content: records}, debtest.File{Path: "./x", Content: "x"})
	data[156] = 'x'
	copy(data[148:], fmt.Sprintf("%06o", sumOf(data[:512])))
	refused(t, walk(contents(t, open(t, whole(t, data))), nil), "data.tar", `"./big" is written as a file with holes`)
}

func sumOf(header []byte) int {
	sum := 0
	for i, c := range header {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	return sum
}

func TestRefusedControl(t *testing.T) {
	control := debtest.File{Path: "./control", Content: debtest.Control("a", "1", "all")}
	text := func(s string) []debtest.File { return []debtest.File{{Path: "./control", Content: s}} }
	for _, c := range []struct {
		summary string
		files   []debtest.File
		want    string
	}{
		{"nothing", nil, "control.tar, at byte 0: there is no file control in it"},
		{"no control", []debtest.File{{Path: "./postinst"}}, "there is no file control in it"},
		{"an empty control", text(""), "the file control is empty"},
		{"no paragraph", text("nothing\n"), `the file control, line 1: "nothing" is no field`},
		{"two paragraphs", text(control.Content + "\nPackage: b\n"), "the file control, line 7: a second paragraph"},
		{"a field twice", text(control.Content + "Package: b\n"), "the file control, line 6: the field Package stands twice"},
		{"no Package", text("Version: 1\nArchitecture: all\n"), `Package is "", which it cannot be`},
		{"a path as Package", text(debtest.Control("../../etc/x", "1", "all")), `Package is "../../etc/x"`},
		{"a path in Package", text(debtest.Control("a/b", "1", "all")), `Package is "a/b"`},
		{"no Version", text("Package: a\nArchitecture: all\n"), `Version is ""`},
		{"a path in Version", text(debtest.Control("a", "1/2", "all")), `Version is "1/2"`},
		{"an empty Architecture", text(debtest.Control("a", "1", "")), `Architecture is ""`},
		{"two architectures", text(debtest.Control("a", "1", "armel armhf")), `Architecture is "armel armhf"`},
		{"a folder", []debtest.File{control, debtest.Dir("./x")}, `"x" is no plain file`},
		{"in a folder", []debtest.File{control, {Path: "./x/y"}}, `"x/y" lies in a folder`},
		{"elsewhere", []debtest.File{control, {Path: "../y"}}, "leads elsewhere"},
		{"a symbolic link", []debtest.File{control, debtest.Symlink("./postinst", "/bin/true")}, `"postinst" is no plain file`},
		{"a hard link", []debtest.File{control, debtest.HardLink("./postinst", "./control")}, `"postinst" is no plain file`},
		{"list", []debtest.File{control, {Path: "./list"}}, `a control file "list", which is dpkg's to make`},
		{"a second control", []debtest.File{control, control}, `a second "control"`},
		{"a second postinst", []debtest.File{control, {Path: "./postinst"}, {Path: "postinst"}}, `a second "postinst"`},
		{"a long name", []debtest.File{control, {Path: "./" + strings.Repeat("x", 101)}}, "has a name of more than 100 bytes"},
		{"a bomb", []debtest.File{control, {Path: "./x", Zeros: 17 << 20}}, "it holds more than the 16777216 bytes that it may"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			file := debtest.Archive(
				debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")},
				debtest.Member{Name: "control.tar", Content: debtest.Tar(t, c.files...)},
				debtest.Member{Name: "data.tar"},
			)
			_, err := open(t, file).Control()
			refused(t, err, "control.tar", c.want)
		})
	}
}

// TestBomb: what is small when it comes and large when it is unpacked is
// found out at the limit, not later; what is just within it is good.
func TestBomb(t *testing.T) {
	const size = 6 << 20
	for _, kind := range append(kinds, "bz2") {
		t.Run(kind, func(t *testing.T) {
			suffix := "." + kind
			if kind == "none" {
				suffix = ""
			}
			file := debtest.Build(t, debtest.Control("a", "1", "all"), []debtest.File{
				{Path: "/a", Zeros: size / 2}, {Path: "/b", Zeros: size / 2},
			}, debtest.WithoutMD5Sums(), debtest.Compression(kind))
			for _, limit := range []int64{0, 1, 511, 512, 4096, size / 2, size} {
				c, err := open(t, file).Data(t.Context(), limit)
				if err != nil {
					t.Fatal(err)
				}
				var read int64
				for err == nil {
					if _, err = c.Next(); err == nil {
						var n int64
						n, err = io.Copy(io.Discard, c)
						read += n
					}
				}
				if !errors.Is(err, deb.ErrTooLarge) || read > limit {
					t.Errorf("limit %d: %d bytes, then %v", limit, read, err)
				}
				refused(t, err, "data.tar"+suffix, fmt.Sprintf("more than the %d bytes", limit))
				if _, again := c.Next(); again == nil {
					t.Error("reading goes on after the limit")
				}
				c.Close() //nolint:errcheck // always nil
			}
			// Many small files, and much that follows the last one.
			swarm := make([]debtest.File, 400)
			for i := range swarm {
				swarm[i].Path = fmt.Sprintf("/%d", i)
			}
			for _, data := range [][]byte{debtest.Tar(t, swarm...), append(debtest.Tar(t, debtest.Dir("/")), make([]byte, 1<<20)...)} {
				many := debtest.Archive(debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")},
					debtest.Member{Name: "control.tar"}, debtest.Member{Name: "data.tar" + suffix, Content: debtest.Compress(t, kind, data)})
				m, err := open(t, many).Data(t.Context(), 100_000)
				if err != nil {
					t.Fatal(err)
				}
				if err := walk(m, nil); !errors.Is(err, deb.ErrTooLarge) {
					t.Errorf("%d bytes of tar: %v", len(data), err)
				}
				m.Close() //nolint:errcheck // always nil
			}
			c, err := open(t, file).Data(t.Context(), size+10240)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close() //nolint:errcheck // always nil
			if err := walk(c, nil); err != nil {
				t.Errorf("within the limit: %v", err)
			}
		})
	}
	t.Run("a size that is not there", func(t *testing.T) {
		data := debtest.Tar(t, debtest.File{Path: "./x"})
		copy(data[124:], "77777777777") // 8 GiB
		copy(data[148:], fmt.Sprintf("%06o", sumOf(data[:512])))
		_, err := contents(t, open(t, whole(t, data))).Next()
		refused(t, err, "data.tar", "at byte 0: it holds more than")
	})
}

// TestDamagedCompression: wherever a compressed member is cut, it is an error,
// never a package with fewer files.
func TestDamagedCompression(t *testing.T) {
	text := make([]byte, 3000)
	for i := range text {
		text[i] = byte(i * i >> 3)
	}
	tarred := debtest.Tar(t, debtest.File{Path: "/x", Content: string(text)})
	for _, kind := range append(kinds, "bz2") {
		t.Run(kind, func(t *testing.T) {
			if kind == "none" {
				t.Skip("nothing tells a tar archive that ends early from one without zeros at its end")
			}
			packed := debtest.Compress(t, kind, tarred)
			step := max(1, len(packed)/150)
			for n := 0; n < len(packed); n += step {
				name := "data.tar." + kind
				file := debtest.Archive(
					debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")},
					debtest.Member{Name: "control.tar"}, debtest.Member{Name: name, Content: packed[:n]},
				)
				c := contents(t, open(t, file))
				err := walk(c, nil)
				c.Close() //nolint:errcheck // always nil
				if err == nil {
					t.Fatalf("cut after %d of %d bytes: no error", n, len(packed))
				}
				refused(t, err, name, "compressed data")
			}
		})
	}
}

package deb_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"

	"hatchery/imagebuilder/deb"
	"hatchery/imagebuilder/deb/debtest"
)

// limit keeps what one input can unpack to small.
const limit = 4 << 20

// sound checks what holds of every entry, whatever the package is.
func sound(t *testing.T, e *deb.Entry, earlier map[string]bool) {
	t.Helper()
	for _, p := range []string{e.Path, e.Target} {
		if e.Mode&fs.ModeSymlink != 0 && p == e.Target {
			continue
		}
		if p == "" && !e.HardLink {
			continue // no target
		}
		if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsAny(p, "\x00\n") {
			t.Errorf("the path %q", p)
		}
	}
	if e.Size < 0 || e.Size > limit || e.Size > 0 && !e.Mode.IsRegular() {
		t.Errorf("%q, %v, has %d bytes", e.Path, e.Mode, e.Size)
	}
	if e.HardLink && !earlier[e.Target] {
		t.Errorf("%q links to %q, which did not come", e.Path, e.Target)
	}
	if e.Path == "/" && !e.Mode.IsDir() {
		t.Errorf("the root is %v", e.Mode)
	}
	if e.Mode.Type()&^(fs.ModeDir|fs.ModeSymlink|fs.ModeDevice|fs.ModeCharDevice|fs.ModeNamedPipe) != 0 {
		t.Errorf("%q has the type %v", e.Path, e.Mode.Type())
	}
	earlier[e.Path] = true
}

// soundError checks that damage is told as such.
func soundError(t *testing.T, err error) {
	t.Helper()
	var wrong *deb.FormatError
	if err == nil || errors.Is(err, io.EOF) && !errors.As(err, &wrong) {
		return
	}
	if !errors.As(err, &wrong) {
		t.Errorf("%v (%T) is no FormatError", err, err)
	} else if wrong.Offset < 0 || wrong.Detail == "" {
		t.Errorf("%+v says too little", wrong)
	}
}

// use reads all that there is of a package.
func use(t *testing.T, file []byte) {
	d, err := deb.Open(bytes.NewReader(file), int64(len(file)))
	soundError(t, err)
	if err != nil {
		return
	}
	control, err := d.Control()
	soundError(t, err)
	if err == nil {
		if name := control.Paragraph.Get("Package"); name == "" || strings.Contains(name, "/") || name[0] == '.' {
			t.Errorf("the package's name is %q", name)
		}
		for i, f := range control.Files {
			if f.Name == "" || strings.ContainsAny(f.Name, "/\x00\n") || f.Name == "." || f.Name == ".." || !f.Mode.IsRegular() {
				t.Errorf("the control file %q, %v", f.Name, f.Mode)
			}
			if i > 0 && f.Name <= control.Files[i-1].Name {
				t.Errorf("%q comes after %q", f.Name, control.Files[i-1].Name)
			}
		}
	}
	c, err := d.Data(t.Context(), limit)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // always nil
	var total int64
	earlier := map[string]bool{}
	err = walk(c, func(e *deb.Entry, content []byte) {
		sound(t, e, earlier)
		if int64(len(content)) != e.Size {
			t.Errorf("%q has %d bytes, not %d", e.Path, len(content), e.Size)
		}
		total += e.Size
	})
	soundError(t, err)
	if total > limit {
		t.Errorf("%d bytes came out, %d may", total, limit)
	}
}

// seeds are packages of every kind that is built without tools.
func seeds(t testing.TB) [][]byte {
	var all [][]byte
	for _, kind := range kinds {
		control := kind
		if kind == "lzma" {
			control = "gz"
		}
		all = append(all, debtest.Build(t, debtest.Control("a", "1", "all"), everything,
			debtest.Compression(kind), debtest.ControlCompression(control), debtest.Script("postinst", "#!/bin/sh\n")))
	}
	// bzip2 of nothing, and of one zero byte.
	for _, packed := range []string{
		"BZh9\x17rE8P\x90\x00\x00\x00\x00",
		"BZh91AY&SY\xb1\xf7@K\x00\x00\x00@\x00@\x00 \x00!\x18F\x82\xeeH\xa7\n\x12\x16>\xe8\t`",
	} {
		all = append(all, debtest.Archive(debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")},
			debtest.Member{Name: "control.tar"}, debtest.Member{Name: "data.tar.bz2", Content: []byte(packed)}))
	}
	return all
}

// FuzzPackage: any bytes as a .deb.
func FuzzPackage(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(use)
}

// FuzzFraming: three members in any framing.
func FuzzFraming(f *testing.F) {
	f.Add("debian-binary", "2.0\n", "control.tar", "_more", uint8(0))
	f.Add("debian-binary/", "2.1\nx\n", "_first", "control.tar.gz", uint8(60))
	f.Fuzz(func(t *testing.T, first, version, second, third string, cut uint8) {
		tarred := debtest.Tar(t, debtest.File{Path: "./control", Content: debtest.Control("a", "1", "all")})
		file := debtest.Archive(
			debtest.Member{Name: first, Content: []byte(version)},
			debtest.Member{Name: second, Content: tarred}, debtest.Member{Name: third, Content: tarred},
			debtest.Member{Name: "data.tar", Content: tarred},
		)
		use(t, file[:len(file)-min(len(file), int(cut))])
	})
}

// FuzzControlTar: any bytes as control.tar.
func FuzzControlTar(f *testing.F) {
	control := debtest.File{Path: "./control", Content: debtest.Control("a", "1", "all")}
	f.Add(debtest.Tar(f, debtest.Dir("./"), control, debtest.File{Path: "./postinst", Mode: 0o755, Content: "#!/bin/sh\n"}))
	f.Add(debtest.Tar(f, control, debtest.Symlink("./x", "y"), debtest.HardLink("./z", "./control")))
	f.Fuzz(func(t *testing.T, tarred []byte) {
		use(t, debtest.Archive(debtest.Member{Name: "debian-binary", Content: []byte("2.0\n")},
			debtest.Member{Name: "control.tar", Content: tarred}, debtest.Member{Name: "data.tar"}))
	})
}

// FuzzDataTar: any bytes as data.tar.
func FuzzDataTar(f *testing.F) {
	f.Add(debtest.Tar(f, everything...))
	f.Add(holes(debtest.Tar(f, debtest.File{Path: "./x", Content: strings.Repeat("x", 1000)})))
	f.Add(debtest.Tar(f, debtest.File{Path: "../x"}, debtest.HardLink("/y", "../x")))
	f.Fuzz(func(t *testing.T, tarred []byte) { use(t, whole(t, tarred)) })
}

package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"hatchery/internal/deb822"
)

const (
	// maxControl bounds what control.tar holds: the largest have md5sums of
	// tens of thousands of files, some MiB.
	maxControl = 16 << 20
	// maxControlFiles is far beyond the dozen that a package has.
	maxControlFiles = 1000
	// maxControlName is dpkg's MAXCONTROLFILENAME (src/main/unpack.c).
	maxControlName = 100
)

// Control is what a package says of itself.
type Control struct {
	// Paragraph is the control file: Package, Version, Depends, ….
	// Package, Version and Architecture are there, and made of the
	// characters that dpkg allows in them: they may become file names.
	Paragraph *deb822.Paragraph
	// Raw is the control file as it is.
	Raw []byte
	// Files are the other control files, those that dpkg keeps in
	// /var/lib/dpkg/info, sorted by name: preinst, conffiles, md5sums, ….
	Files []ControlFile
}

// A ControlFile is one file that dpkg keeps of a package.
type ControlFile struct {
	Name    string // "postinst"
	Mode    fs.FileMode
	Content []byte
}

// File gives a control file by name; nil where there is none.
func (c *Control) File(name string) *ControlFile {
	i, ok := slices.BinarySearchFunc(c.Files, name, func(f ControlFile, name string) int { return strings.Compare(f.Name, name) })
	if !ok {
		return nil
	}
	return &c.Files[i]
}

// Control reads the package's control information, at most 16 MiB. Its error
// is a [*FormatError] or r's own.
func (d *Deb) Control() (*Control, error) {
	in := newUnpacker(d.file, d.control, maxControl)
	defer in.Close() //nolint:errcheck // it is read only
	c := &Control{}
	t := &tarReader{in: in, tar: tar.NewReader(in), member: d.control.name, offset: func() int64 { return in.n }, failure: func() error { return in.err }}
	seen := map[string]bool{}
	for {
		h, err := t.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := c.add(t, h, seen); err != nil {
			return nil, err
		}
	}
	if c.Raw == nil {
		return nil, t.wrong("there is no file control in it")
	}
	if err := c.parse(t); err != nil {
		return nil, err
	}
	slices.SortFunc(c.Files, func(a, b ControlFile) int { return strings.Compare(a.Name, b.Name) })
	return c, nil
}

// add takes one entry of control.tar.
func (c *Control) add(t *tarReader, h *tar.Header, seen map[string]bool) error {
	name, err := cleanPath(h.Name)
	if err != nil {
		return t.wrong("%v", err)
	}
	name = name[1:]
	switch {
	case name == "" && h.Typeflag == tar.TypeDir:
		return nil
	case h.Typeflag != tar.TypeReg:
		return t.wrong("%q is no plain file, as all control files are", name)
	case strings.Contains(name, "/"):
		return t.wrong("%q lies in a folder, as no control file does", name)
	case len(name) > maxControlName:
		return t.wrong("the control file %.40q… has a name of more than %d bytes", name, maxControlName)
	case name == "list":
		return t.wrong("a control file %q, which is dpkg's to make", name)
	case seen[name]:
		return t.wrong("a second %q", name)
	case len(seen) == maxControlFiles:
		return t.wrong("more than %d control files", maxControlFiles)
	}
	seen[name] = true
	mode, err := fileMode(h)
	if err != nil {
		return t.wrong("%v", err)
	}
	var content bytes.Buffer
	if _, err := io.Copy(&content, t.tar); err != nil {
		return t.explain(err)
	}
	if name == "control" {
		c.Raw = content.Bytes()
		if c.Raw == nil {
			c.Raw = []byte{}
		}
		return nil
	}
	c.Files = append(c.Files, ControlFile{Name: name, Mode: mode, Content: content.Bytes()})
	return nil
}

// parse reads the file control.
func (c *Control) parse(t *tarReader) error {
	in := deb822.NewReader(bytes.NewReader(c.Raw))
	p, err := in.Next()
	if errors.Is(err, io.EOF) {
		return t.wrong("the file control is empty")
	}
	if err == nil {
		c.Paragraph = p
		if p, err = in.Next(); err == nil {
			return t.wrong("the file control, line %d: a second paragraph", p.Line)
		}
	}
	if !errors.Is(err, io.EOF) {
		return t.wrong("the file control, %w", err)
	}
	for _, f := range []struct {
		name string
		ok   func(string) bool
	}{
		{"Package", validName}, {"Version", validVersion}, {"Architecture", validArchitecture},
	} {
		if value := c.Paragraph.Get(f.name); !f.ok(value) {
			return t.wrong("the file control: %s is %.60q, which it cannot be", f.name, value)
		}
	}
	return nil
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// made says whether s begins with a letter or digit and has only those and
// some more characters.
func made(s, more string) bool {
	return s != "" && len(s) <= 255 && strings.IndexByte(alphanumeric, s[0]) >= 0 && strings.Trim(s, alphanumeric+more) == ""
}

// What dpkg takes for a name (pkg_name_is_illegal), a version and an
// architecture (dpkg_arch_name_is_illegal).
func validName(s string) bool         { return made(s, "-+._") }
func validVersion(s string) bool      { return made(s, "-+.~:") }
func validArchitecture(s string) bool { return made(s, "-") }

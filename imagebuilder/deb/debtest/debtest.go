// Package debtest builds .deb files in memory, for tests of what reads them:
// good ones as dpkg-deb makes them, and ones that no packager would make.
package debtest

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"
)

// ModTime is what files have that name no time of their own.
var ModTime = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

// A File is one entry of data.tar.
type File struct {
	// Path is where it goes: "/usr/bin/docker" is written
	// "./usr/bin/docker". One that begins with neither a slash nor a dot is
	// written as it is.
	Path string
	// Mode has the type bits of package fs: fs.ModeDir, fs.ModeSymlink,
	// fs.ModeNamedPipe, fs.ModeDevice (a block device; with
	// fs.ModeCharDevice the other kind), fs.ModeSetuid and so on. Without
	// permission bits it is 0755 for folders, 0777 for symbolic links and
	// 0644 for all else.
	Mode fs.FileMode
	// Link is where a symbolic link points, as it is; without
	// fs.ModeSymlink, the file's path in the archive that this one is
	// another name of.
	Link string

	Content string
	// Zeros is how many zero bytes follow Content: what a bomb is made of.
	Zeros int64

	UID, GID     int
	User, Group  string // "root" for number 0 where nothing is said
	ModTime      time.Time
	Major, Minor int64
	// Xattrs by name ("security.capability"). They make the entry a PAX
	// one, which dpkg itself refuses.
	Xattrs map[string]string
	// Edit, if there, has the last word on the entry's header.
	Edit func(*tar.Header)
}

// Dir, Executable and Symlink are the commonest files that are not plain.
func Dir(path string) File { return File{Path: path, Mode: fs.ModeDir} }

// Executable is a file of mode 0755.
func Executable(path, content string) File {
	return File{Path: path, Mode: 0o755, Content: content}
}

// Symlink is a symbolic link.
func Symlink(path, target string) File {
	return File{Path: path, Mode: fs.ModeSymlink, Link: target}
}

// HardLink is another name of a file that comes before it, whose mode, owner
// and time it has.
func HardLink(path, of string) File { return File{Path: path, Link: of} }

type settings struct {
	control, data string // compression
	files         []File // of control.tar, control aside
	conffiles     []string
	noParents     bool
	noMD5Sums     bool
	extra         []Member // between debian-binary and control.tar
}

// An Option changes what Build does.
type Option func(*settings)

// Compression says how data.tar is packed: "none", "gz", "xz" (as when
// nothing is said), "zst", "bz2" (by the tool bzip2) or "lzma".
func Compression(kind string) Option { return func(s *settings) { s.data = kind } }

// ControlCompression says how control.tar is packed; "xz" when nothing is
// said.
func ControlCompression(kind string) Option { return func(s *settings) { s.control = kind } }

// Script adds a maintainer script: "preinst", "postinst", "prerm", "postrm",
// "config".
func Script(name, text string) Option {
	return func(s *settings) { s.files = append(s.files, File{Path: "./" + name, Mode: 0o755, Content: text}) }
}

// ControlFile adds a file of mode 0644 to control.tar: "triggers", "shlibs",
// "templates".
func ControlFile(name, content string) Option {
	return func(s *settings) { s.files = append(s.files, File{Path: "./" + name, Content: content}) }
}

// ControlEntry adds anything to control.tar.
func ControlEntry(f File) Option { return func(s *settings) { s.files = append(s.files, f) } }

// Conffiles names configuration files: their absolute paths, as they stand in
// the control file conffiles.
func Conffiles(paths ...string) Option {
	return func(s *settings) { s.conffiles = append(s.conffiles, paths...) }
}

// WithoutParents leaves out the folders that files lie in, unless they are
// named: every package has them, but a reader may meet one that has not.
func WithoutParents() Option { return func(s *settings) { s.noParents = true } }

// WithoutMD5Sums leaves out the control file md5sums.
func WithoutMD5Sums() Option { return func(s *settings) { s.noMD5Sums = true } }

// Extra adds a member to the .deb between debian-binary and control.tar.
func Extra(name string, content []byte) Option {
	return func(s *settings) { s.extra = append(s.extra, Member{name, content}) }
}

// Control makes the control file of a small package; fields are further lines
// ("Depends: libc6 (>= 2.36)").
func Control(name, version, architecture string, fields ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Nobody <nobody@archive.example>\n", name, version, architecture)
	for _, f := range fields {
		b.WriteString(strings.TrimSuffix(f, "\n") + "\n")
	}
	for _, f := range fields {
		if strings.HasPrefix(f, "Description:") {
			return b.String()
		}
	}
	fmt.Fprintf(&b, "Description: %s for tests\n", name)
	return b.String()
}

// Build makes a .deb of a control file and what goes onto the file system, in
// the order given. Folders that are not named come before what lies in them;
// md5sums are as dh_md5sums makes them. Equal arguments give equal bytes.
func Build(t testing.TB, control string, files []File, options ...Option) []byte {
	t.Helper()
	s := settings{control: "xz", data: "xz"}
	for _, o := range options {
		o(&s)
	}
	if control != "" && !strings.HasSuffix(control, "\n") {
		control += "\n"
	}
	if !s.noParents {
		files = withParents(files)
	}
	inControl := []File{Dir("./"), {Path: "./control", Content: control}}
	if len(s.conffiles) > 0 {
		inControl = append(inControl, File{Path: "./conffiles", Content: strings.Join(s.conffiles, "\n") + "\n"})
	}
	if sums := md5sums(files, s.conffiles); sums != "" && !s.noMD5Sums {
		inControl = append(inControl, File{Path: "./md5sums", Content: sums})
	}
	members := []Member{{"debian-binary", []byte("2.0\n")}}
	members = append(members, s.extra...)
	return Archive(append(members,
		Member{"control.tar" + suffix(s.control), Compress(t, s.control, Tar(t, append(inControl, s.files...)...))},
		Member{"data.tar" + suffix(s.data), Compress(t, s.data, Tar(t, files...))},
	)...)
}

// withParents adds the folders that are not there.
func withParents(files []File) []File {
	named := map[string]bool{}
	for _, f := range files {
		if f.Mode.IsDir() {
			named[place(f.Path)] = true
		}
	}
	var all []File
	var add func(dir string)
	add = func(dir string) {
		if named[dir] {
			return
		}
		named[dir] = true
		if dir != "/" {
			add(path.Dir(dir))
			dir += "/"
		}
		all = append(all, Dir(dir))
	}
	add("/")
	for _, f := range files {
		if p := place(f.Path); p != "/" {
			add(path.Dir(p))
		}
		all = append(all, f)
	}
	return all
}

// place is where a file goes, whatever way that is written.
func place(name string) string { return path.Clean("/" + name) }

func md5sums(files []File, conffiles []string) string {
	conf := map[string]bool{}
	for _, c := range conffiles {
		conf[place(strings.TrimPrefix(c, "remove-on-upgrade "))] = true
	}
	sums := map[string]string{}
	var b strings.Builder
	for _, f := range files {
		if f.Mode.Type() != 0 {
			continue
		}
		p := place(f.Path)
		switch {
		case f.Link != "":
			sums[p] = sums[place(f.Link)]
		case f.Zeros == 0:
			sums[p] = fmt.Sprintf("%x", md5.Sum([]byte(f.Content)))
		}
		if sums[p] != "" && !conf[p] {
			fmt.Fprintf(&b, "%s  %s\n", sums[p], p[1:])
		}
	}
	return b.String()
}

// Tar makes a tar archive, in GNU's format as dpkg-deb's are.
func Tar(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	zeros := make([]byte, 1<<16)
	written := map[string]*tar.Header{}
	for _, f := range files {
		h := header(f)
		if of := written[place(f.Link)]; of != nil && h.Typeflag == tar.TypeLink && f.Edit == nil {
			// All names of a file say the same of it.
			h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime = of.Mode, of.Uid, of.Gid, of.Uname, of.Gname, of.ModTime
		}
		written[place(f.Path)] = h
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("debtest: %s: %v", f.Path, err)
		}
		if h.Size == 0 || h.Typeflag != tar.TypeReg {
			continue
		}
		_, err := w.Write([]byte(f.Content))
		for left := f.Zeros; left > 0 && err == nil; left -= int64(len(zeros)) {
			_, err = w.Write(zeros[:min(left, int64(len(zeros)))])
		}
		if err != nil {
			t.Fatalf("debtest: %s: %v", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatalf("debtest: %v", err)
	}
	return b.Bytes()
}

func header(f File) *tar.Header {
	h := &tar.Header{
		Format: tar.FormatGNU, Typeflag: tar.TypeReg,
		Name: written(f.Path), Uid: f.UID, Gid: f.GID, Uname: f.User, Gname: f.Group, ModTime: f.ModTime,
		Devmajor: f.Major, Devminor: f.Minor,
	}
	if h.ModTime.IsZero() {
		h.ModTime = ModTime
	}
	if h.Uname == "" && h.Uid == 0 {
		h.Uname = "root"
	}
	if h.Gname == "" && h.Gid == 0 {
		h.Gname = "root"
	}
	perm := fs.FileMode(0o644)
	switch {
	case f.Mode.IsDir():
		h.Typeflag, perm = tar.TypeDir, 0o755
		if !strings.HasSuffix(h.Name, "/") {
			h.Name += "/"
		}
	case f.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname, perm = tar.TypeSymlink, f.Link, 0o777
	case f.Mode&fs.ModeCharDevice != 0:
		h.Typeflag = tar.TypeChar
	case f.Mode&fs.ModeDevice != 0:
		h.Typeflag = tar.TypeBlock
	case f.Mode&fs.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeLink, written(f.Link)
	default:
		h.Size = int64(len(f.Content)) + f.Zeros
	}
	if f.Mode.Perm() != 0 {
		perm = f.Mode.Perm()
	}
	h.Mode = int64(perm)
	for bit, octal := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if f.Mode&bit != 0 {
			h.Mode |= octal
		}
	}
	if len(f.Xattrs) > 0 {
		h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{}
		for name, value := range f.Xattrs {
			h.PAXRecords["SCHILY.xattr."+name] = value
		}
	}
	if f.Edit != nil {
		f.Edit(h)
	}
	return h
}

// written is a path as it stands in a package.
func written(name string) string {
	if strings.HasPrefix(name, "/") {
		return "." + name
	}
	return name
}

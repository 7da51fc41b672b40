// Package release knows what differs between the releases of Raspberry Pi OS:
// where the boot partition is mounted, which scripts would resize, rename and
// wipe things at the first boot, who manages the network. One file a release.
//
// It writes nothing. It reads an image's root file system and says, as plain
// data, what has to change; the pipeline does it, and a plan can show it.
package release

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"hatchery/overlays"
)

// Root is the root file system of an image. Paths are absolute and
// slash-separated; symbolic links to folders are followed, and so are links
// to files by ReadFile. What does not exist is an error that is fs.ErrNotExist.
type Root interface {
	ReadFile(path string) ([]byte, error)
	// ReadDir gives the names in a folder, without . and .. , in any order.
	ReadDir(path string) ([]string, error)
	// Lstat gives the mode with its type bits; a link itself is not followed.
	Lstat(path string) (fs.FileMode, error)
	Readlink(path string) (string, error)
}

// FromFS makes a Root of a file system of the standard library's kind.
func FromFS(fsys fs.FS) Root { return stdRoot{fsys} }

type stdRoot struct{ fsys fs.FS }

func name(path string) string {
	if path = strings.Trim(path, "/"); path == "" {
		return "."
	}
	return path
}

func (r stdRoot) ReadFile(path string) ([]byte, error) { return fs.ReadFile(r.fsys, name(path)) }

func (r stdRoot) ReadDir(path string) ([]string, error) {
	entries, err := fs.ReadDir(r.fsys, name(path))
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (r stdRoot) Lstat(path string) (fs.FileMode, error) {
	info, err := fs.Lstat(r.fsys, name(path))
	if err != nil {
		return 0, err
	}
	return info.Mode(), nil
}

func (r stdRoot) Readlink(path string) (string, error) { return fs.ReadLink(r.fsys, name(path)) }

// A Release is one release of Raspberry Pi OS.
type Release struct {
	Codename string // bookworm
	BootPath string // where the FAT partition is mounted: /boot/firmware

	edits func(root Root, t Target) (*Edits, error)
}

// Edits says what has to change in an image of this release to make it the
// target's, beside the overlays.
func (r *Release) Edits(root Root, t Target) (*Edits, error) {
	e, err := r.edits(root, t)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare %s: %w", r.Codename, err)
	}
	return e, nil
}

// releases are those that are known.
func releases() []*Release { return []*Release{bookworm()} }

// UnknownError says that an image is of a release that hatchery does not know.
type UnknownError struct {
	ID       string   // raspbian
	Codename string   // "" where the image does not say
	Name     string   // what the image calls itself
	Known    []string // the releases that there are
}

func (e *UnknownError) Error() string {
	what := e.Codename
	if what == "" {
		what = "an unnamed release"
	}
	if e.Name != "" {
		what += fmt.Sprintf(" (%s)", e.Name)
	}
	return fmt.Sprintf("the image is %s, which hatchery does not know; it knows %s", what, strings.Join(e.Known, ", "))
}

// Detect tells by an image's own os-release which release it is. A release
// that is not known, and a system that is not Raspberry Pi OS or Debian, is an
// *UnknownError.
func Detect(root Root) (*Release, error) {
	const path = "/etc/os-release"
	data, err := root.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = root.ReadFile("/usr/lib/os-release")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot tell the image's release: %w", err)
	}
	info := parseOSRelease(data)
	unknown := &UnknownError{ID: info["ID"], Codename: info["VERSION_CODENAME"], Name: info["PRETTY_NAME"]}
	for _, r := range releases() {
		unknown.Known = append(unknown.Known, r.Codename)
		// Raspberry Pi OS calls itself raspbian where it is made for ARMv6,
		// debian where it is Debian's own packages (arm64).
		if r.Codename == info["VERSION_CODENAME"] && slices.Contains([]string{"raspbian", "debian"}, info["ID"]) {
			return r, nil
		}
	}
	return nil, unknown
}

// parseOSRelease reads os-release(5): assignments as a shell has them, without
// expansion. Lines that are none are skipped, as the page asks for.
func parseOSRelease(data []byte) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		if !ok || key == "" || strings.HasPrefix(key, "#") {
			continue
		}
		values[key] = unquote(value)
	}
	return values
}

func unquote(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		quote := s[0]
		s = s[1 : n-1]
		if quote == '\'' {
			return s
		}
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Target is what the edits depend on beside the image.
type Target struct {
	Controller bool
	Bridged    bool   // the controller's eth0 is a port of br0
	Model      string // zero, zero-w, zero-2-w, 2, 3, 4, 5; auto on a controller

	User           string
	AuthorizedKeys []string
	PasswordHash   string // "" for none

	Locale, Timezone string
	Resolvers        bool   // the cluster has name servers of its own (dns:)
	WifiCountry      string // two letters; "" without Wi-Fi

	// DiskID is the disk id of the image's partition table, by which cmdline.txt
	// and fstab name the partitions. 0 leaves them as they are.
	DiskID uint32

	GPUMem  int      // MiB; 0 leaves it
	Cmdline []string // words added to cmdline.txt
	Config  []string // lines added to config.txt

	Epoch time.Time
}

// Edits is what has to change in an image. It is done in the order of the
// fields. Paths are absolute.
type Edits struct {
	Rename   []Rename // of folders
	Remove   []string // paths that exist
	Entries  []overlays.Entry
	Cmdline  Cmdline
	Config   []ConfigEdit
	Problems []Problem
}

// A Rename moves a file or folder.
type Rename struct{ From, To string }

// A Problem is what the image lacks.
type Problem struct {
	Fatal   bool // the target would not work
	Message string
	Remedy  string
}

func (p Problem) String() string { return p.Message + ": " + p.Remedy }

// Cmdline is what changes in cmdline.txt: words are removed, then set, then
// added.
type Cmdline struct {
	RemoveKeys  []string // every word that is key or key=anything
	RemoveWords []string // every word that is exactly this
	Set         []Word   // key=value, in place of a word with that key
	Add         []string // once
}

// A Word is a key=value word of cmdline.txt.
type Word struct{ Key, Value string }

// Removes says whether a word of cmdline.txt goes.
func (c Cmdline) Removes(word string) bool {
	key, _, _ := strings.Cut(word, "=")
	return slices.Contains(c.RemoveKeys, key) || slices.Contains(c.RemoveWords, word)
}

// ConfigOp is what an edit of config.txt does.
type ConfigOp int

// The edits of config.txt.
const (
	SetKey       ConfigOp = iota // key=value, in place of that key's line in the section
	AddLine                      // the line, once, at the section's end
	RemovePrefix                 // the section's lines that start with it
)

// A ConfigEdit changes one section of config.txt.
type ConfigEdit struct {
	Section string // "all", "pi4"
	Op      ConfigOp
	Key     string // of SetKey
	Value   string // of SetKey
	Line    string // of AddLine; the prefix of RemovePrefix
}

func (e ConfigEdit) String() string {
	switch e.Op {
	case SetKey:
		return fmt.Sprintf("[%s] set %s=%s", e.Section, e.Key, e.Value)
	case AddLine:
		return fmt.Sprintf("[%s] add %s", e.Section, e.Line)
	}
	return fmt.Sprintf("[%s] remove %s…", e.Section, e.Line)
}

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

// A Release is one release of Raspberry Pi OS, as an image is of it.
type Release struct {
	Codename string // bookworm
	BootPath string // where the FAT partition is mounted: /boot/firmware
	// Architecture is what the image is built for, by Debian's name: armhf,
	// armel, arm64. "" where nothing in it tells.
	Architecture string

	armv6   bool   // programs of armhf run on ARMv6
	assumed string // what the image calls itself, where the user knows better
	edit    func(e *editor)
}

// Edits says what has to change in an image of this release to make it the
// target's, beside the overlays.
func (r *Release) Edits(root Root, t Target) (*Edits, error) {
	e := &editor{root: root, target: t, codename: r.Codename, from: "release/" + r.Codename}
	if r.assumed != "" {
		e.problem(false, fmt.Sprintf("the image is %s, taken for %s as you asked", r.assumed, r.Codename),
			"look at what it boots into: what differs from Raspberry Pi OS is not adapted")
	}
	r.checkArchitecture(e)
	r.edit(e)
	edits, err := e.done()
	if err != nil {
		return nil, fmt.Errorf("cannot prepare %s: %w", r.Codename, err)
	}
	return edits, nil
}

// quirks are what a release's own file says of it.
type quirks struct {
	codename string
	bootPath string
	edit     func(e *editor)
}

// known are the releases that there are, the oldest first.
func known() []quirks { return []quirks{bullseye, bookworm, trixie} }

// Known names the releases that there are, the oldest first.
func Known() []string {
	var names []string
	for _, q := range known() {
		names = append(names, q.codename)
	}
	return names
}

// UnknownError says that an image is of a release, or a system, that hatchery
// does not know.
type UnknownError struct {
	ID       string   // raspbian
	Codename string   // "" where the image does not say
	Name     string   // what the image calls itself
	Known    []string // the releases that there are
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("the image is %s, which hatchery does not know; it knows Raspberry Pi OS %s: --assume-release with one of these names takes the image for it",
		describe(e.Codename, e.Name), strings.Join(e.Known, ", "))
}

func describe(codename, name string) string {
	if codename == "" {
		codename = "an unnamed release"
	}
	if name != "" {
		codename += fmt.Sprintf(" (%s)", name)
	}
	return codename
}

// AssumeError says that there is no release of the name that the user gave.
type AssumeError struct {
	Name  string
	Known []string // the releases that there are
}

func (e *AssumeError) Error() string {
	return fmt.Sprintf("hatchery knows no release %q; it knows %s", e.Name, strings.Join(e.Known, ", "))
}

// derivatives are systems that call themselves Debian in their os-release, by
// something that only they have. Their boot and network are not Raspberry Pi
// OS's.
var derivatives = []struct{ path, name string }{
	{"/var/lib/dietpi", "DietPi"},
	{"/etc/armbian-release", "Armbian"},
}

// Detect tells by an image's own os-release which release it is. A release
// that is not known, and a system that is not Raspberry Pi OS or Debian, is an
// *UnknownError. What is merely like one of them (ID_LIKE) is unknown too: its
// first boot is anybody's guess.
func Detect(root Root) (*Release, error) {
	info, err := osRelease(root)
	if err != nil {
		return nil, err
	}
	unknown := &UnknownError{ID: info["ID"], Codename: info["VERSION_CODENAME"], Name: info["PRETTY_NAME"], Known: Known()}
	// Raspberry Pi OS calls itself raspbian where it is made for ARMv6, debian
	// where it is Debian's own packages (arm64).
	if !slices.Contains([]string{"raspbian", "debian"}, info["ID"]) {
		return nil, unknown
	}
	for _, d := range derivatives {
		if _, err := root.Lstat(d.path); err == nil {
			unknown.Name = strings.TrimSpace(d.name + " " + unknown.Name)
			return nil, unknown
		}
	}
	for _, q := range known() {
		if q.codename == info["VERSION_CODENAME"] {
			return open(root, q, info)
		}
	}
	return nil, unknown
}

// Assume takes an image for the release of the given codename, whatever it
// calls itself. Where that differs, Edits reports it as a problem. A codename
// that is not known is an *AssumeError.
func Assume(root Root, codename string) (*Release, error) {
	i := slices.Index(Known(), codename)
	if i < 0 {
		return nil, &AssumeError{codename, Known()}
	}
	r, err := Detect(root)
	if err == nil && r.Codename == codename {
		return r, nil
	}
	info, err := osRelease(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if r, err = open(root, known()[i], info); err != nil {
		return nil, err
	}
	r.assumed = describe(info["VERSION_CODENAME"], info["PRETTY_NAME"])
	return r, nil
}

// open makes the Release of an image that has the quirks.
func open(root Root, q quirks, info map[string]string) (*Release, error) {
	architecture, err := architecture(root)
	if err != nil {
		return nil, fmt.Errorf("cannot tell the image's architecture: %w", err)
	}
	return &Release{
		Codename: q.codename, BootPath: q.bootPath, Architecture: architecture,
		armv6: info["ID"] == "raspbian", edit: q.edit,
	}, nil
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

	// Docker says that the image has Docker's packages: the group docker, which
	// the user joins, is made before they are configured.
	Docker bool

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

// Package overlays holds the files that go into an image, as files: the tree
// common goes into every image, docker into those that have its packages,
// controller and node into those of their role.
// Reading these folders is reading what a node gets. The user's own folders
// are laid on top of them by the same rules.
//
// A tree is a folder whose paths are paths in the image; those below
// boot/firmware go to the FAT partition. In it,
//
//   - a file named x.tmpl is rendered as a text/template over Data and laid as
//     x. A template that renders to nothing but blanks lays no file, so a file
//     can depend on the configuration;
//   - every other file is laid as it is;
//   - the file modes at the top of the tree lists modes and owners, and the
//     file links symbolic links, which a Go binary cannot embed; both may be
//     templates (modes.tmpl, links.tmpl). What modes does not name is root's,
//     0644, or 0755 if the file is executable; set-user-ID bits come from
//     modes only, whatever the file has on the workstation. A file of the
//     user's that is closed to others there must be in modes;
//   - a folder exists to hold files; modes gives it a mode and an owner, and
//     creates it if need be (see parseModes).
//
// Later trees replace earlier ones path by path. bin, lib and sbin at the top of
// a tree mean usr/bin, usr/lib and usr/sbin, which they are links to.
//
// Time stamps are not part of an entry: everything that is laid gets the
// build's epoch. systemd takes that of usr/lib/clock-epoch for the earliest time
// that it can be.
package overlays

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

//go:embed all:common all:docker all:controller all:node
var embedded embed.FS

// templateSuffix marks what is rendered.
const templateSuffix = ".tmpl"

// The lists at the top of a tree.
const (
	modesFile = "modes"
	linksFile = "links"
)

// maxFileSize bounds one overlay file. Files are held in memory; what is
// larger belongs on the image by other ways.
const maxFileSize = 64 << 20

// An Entry is one file, folder or symbolic link to be laid into the image.
type Entry struct {
	Path    string      // absolute, clean, slash-separated
	Mode    fs.FileMode // with its type bits: 0 for a file, fs.ModeDir, fs.ModeSymlink
	UID     uint32
	GID     uint32
	Content []byte // of a file
	Target  string // of a symbolic link
	// KeepExisting is set on a folder of which nothing but its existence is
	// wanted: one that is there already keeps its mode and owner.
	KeepExisting bool
	// Secret content (a key, a passphrase) appears in no manifest and no plan.
	Secret bool
	// From says where the entry comes from: "overlays/node/etc/resolv.conf.tmpl",
	// "overlays/common/links:3".
	From string
}

// A Tree is a folder to be laid into an image.
type Tree struct {
	Name string // what errors and Entry.From call it: "overlays/common"
	FS   fs.FS
	// private says that the files have modes by which their owner may have
	// closed them to others. What is embedded, or on Windows, has none.
	private bool
	// when says whether a target gets the tree; nil for every target.
	when func(*Data) bool
}

// Where hatchery's own programs lie in an image. They are in no overlay: the
// builder puts those there that fit the image's processor.
const (
	AgentPath = "/usr/lib/hatchery/firstboot" // brings the node into its cluster
	ToolPath  = "/usr/bin/hatchery"           // on the controller
	// RegistryPath is the registry's, on a controller that has one.
	RegistryPath = "/usr/lib/hatchery/registry"
)

// Trees are the built-in trees of a target, in the order in which they are
// laid. Docker's is among them: Render leaves it out where there is no Docker.
func Trees(controller bool) []Tree {
	role := "node"
	if controller {
		role = "controller"
	}
	var trees []Tree
	for _, name := range []string{"common", "docker", role} {
		sub, err := fs.Sub(embedded, name)
		if err != nil {
			// Only an invalid name is refused, and these are constants.
			continue
		}
		tree := Tree{Name: "overlays/" + name, FS: sub}
		if name == "docker" {
			tree.when = (*Data).HasDocker
		}
		trees = append(trees, tree)
	}
	return trees
}

// Render renders trees over data, lays them one over the other, and gives the
// result sorted by path. Entries depend on nothing but the arguments. All
// problems are reported at once, each with the overlay file and, where there
// is one, the line.
func Render(data Data, trees ...Tree) ([]Entry, error) {
	if err := data.check(); err != nil {
		return nil, err
	}
	var errs []error
	var lists [][]Entry
	for _, tree := range trees {
		if tree.when != nil && !tree.when(&data) {
			continue
		}
		entries, err := renderTree(data, tree)
		if err != nil {
			errs = append(errs, err)
		}
		lists = append(lists, entries)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return Merge(lists...)
}

// Merge lays lists of entries one over the other: a later entry replaces an
// earlier one of the same path. The result is sorted by path. A file or link
// where another entry needs a folder is an error that names both.
func Merge(lists ...[]Entry) ([]Entry, error) {
	byPath := map[string]Entry{}
	for _, list := range lists {
		for _, e := range list {
			if old, ok := byPath[e.Path]; ok && e.KeepExisting && old.Mode.IsDir() {
				continue
			}
			byPath[e.Path] = e
		}
	}
	entries := make([]Entry, 0, len(byPath))
	for _, e := range byPath {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })

	var errs []error
	for _, e := range entries {
		for dir := path.Dir(e.Path); dir != "/" && dir != "."; dir = path.Dir(dir) {
			if above, ok := byPath[dir]; ok && !above.Mode.IsDir() {
				errs = append(errs, fmt.Errorf("%s: cannot lie below %s, which %s makes a %s", e.From, dir, above.From, kind(above.Mode)))
			}
		}
	}
	return entries, errors.Join(errs...)
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "folder"
	case mode&fs.ModeSymlink != 0:
		return "symbolic link"
	}
	return "file"
}

// merged are the folders at the root that are links into /usr on every
// release that is supported. Laying lib/x and usr/lib/x as two entries would
// leave it to their order which of them wins.
var merged = []string{"bin", "lib", "sbin"}

// imagePath is where a path of a tree lies in the image.
func imagePath(name string) string {
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains(merged, first) && first != name {
		name = "usr/" + name
	}
	return "/" + name
}

// renderTree gives the entries of one tree.
func renderTree(data Data, tree Tree) ([]Entry, error) {
	r := &treeRenderer{data: data, tree: tree, entries: map[string]*Entry{}, empty: map[string]bool{}, closed: map[string]closed{}}
	if err := fs.WalkDir(tree.FS, ".", r.visit); err != nil {
		return nil, errors.Join(append(r.errs, fmt.Errorf("cannot read overlay folder %s: %w", tree.Name, err))...)
	}
	r.applyLinks()
	r.applyModes()
	r.refuseClosed()
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	entries := make([]Entry, 0, len(r.entries))
	for _, e := range r.entries {
		entries = append(entries, *e)
	}
	return entries, nil
}

type treeRenderer struct {
	data    Data
	tree    Tree
	entries map[string]*Entry // by image path
	empty   map[string]bool   // image paths whose template rendered to nothing
	closed  map[string]closed // by image path
	lists   [2]*list          // modes, links
	errs    []error
}

// closed is a file that only its owner reads, but that everybody would read in
// the image unless modes says otherwise.
type closed struct {
	from, laid string
	mode       fs.FileMode
}

type list struct {
	from string
	text []byte
}

func (r *treeRenderer) fail(from string, err error) {
	r.errs = append(r.errs, fmt.Errorf("%s: %w", from, err))
}

// visit takes one file of the tree. It returns an error only where walking on
// makes no sense; what is wrong with a single file is collected.
func (r *treeRenderer) visit(name string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	from := r.tree.Name + "/" + name
	if strings.ContainsAny(name, "\n\x00") {
		r.fail(fmt.Sprintf("%s/%q", r.tree.Name, name), errors.New("a line feed or NUL in a path"))
		return nil
	}
	switch {
	case d.IsDir():
		return r.visitDir(name, from)
	case d.Type()&fs.ModeSymlink != 0:
		target, err := fs.ReadLink(r.tree.FS, name)
		if err != nil {
			r.fail(from, err)
			return nil
		}
		r.add(Entry{Path: imagePath(name), Mode: fs.ModeSymlink | 0o777, Target: filepath.ToSlash(target), From: from})
		return nil
	case !d.Type().IsRegular():
		r.fail(from, fmt.Errorf("%s: an overlay holds files, folders and symbolic links", d.Type()))
		return nil
	}
	return r.visitFile(name, from, d)
}

func (r *treeRenderer) visitDir(name, from string) error {
	children, err := fs.ReadDir(r.tree.FS, name)
	if err != nil {
		return err
	}
	if len(children) == 0 {
		r.add(Entry{Path: imagePath(name), Mode: fs.ModeDir | 0o755, KeepExisting: true, From: from})
	}
	return nil
}

func (r *treeRenderer) visitFile(name, from string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		r.fail(from, err)
		return nil
	}
	if info.Size() > maxFileSize {
		r.fail(from, fmt.Errorf("%d bytes: an overlay file has at most %d", info.Size(), maxFileSize))
		return nil
	}
	content, err := fs.ReadFile(r.tree.FS, name)
	if err != nil {
		r.fail(from, err)
		return nil
	}
	laid, isTemplate := strings.CutSuffix(name, templateSuffix)
	if isTemplate {
		if content, err = render(from, content, r.data); err != nil {
			r.errs = append(r.errs, err) // names file and line itself
			return nil
		}
	}
	switch laid {
	case modesFile, linksFile:
		i := slices.Index([]string{modesFile, linksFile}, laid)
		if r.lists[i] != nil {
			r.fail(from, fmt.Errorf("%s is there already", r.lists[i].from))
			return nil
		}
		r.lists[i] = &list{from: from, text: content}
		return nil
	}
	p := imagePath(laid)
	if isTemplate && len(bytes.TrimSpace(content)) == 0 {
		r.empty[p] = true
		return nil
	}
	if r.tree.private && info.Mode()&0o077 == 0 {
		r.closed[p] = closed{from, laid, info.Mode()}
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	r.add(Entry{Path: p, Mode: mode, Content: content, From: from})
	return nil
}

func (r *treeRenderer) add(e Entry) {
	if old, ok := r.entries[e.Path]; ok {
		r.fail(e.From, fmt.Errorf("%s is laid by %s already", e.Path, old.From))
		return
	}
	if e.Mode&fs.ModeSymlink != 0 && (e.Target == "" || strings.ContainsAny(e.Target, "\n\x00")) {
		r.fail(e.From, fmt.Errorf("%q is no target of a symbolic link", e.Target))
		return
	}
	r.entries[e.Path] = &e
}

func (r *treeRenderer) applyLinks() {
	l := r.lists[1]
	if l == nil {
		return
	}
	links, errs := parseLinks(l.from, l.text)
	r.errs = append(r.errs, errs...)
	for _, link := range links {
		r.add(Entry{
			Path: imagePath(link.path), Mode: fs.ModeSymlink | 0o777, Target: link.target,
			From: fmt.Sprintf("%s:%d", l.from, link.line),
		})
	}
}

func (r *treeRenderer) applyModes() {
	l := r.lists[0]
	if l == nil {
		return
	}
	modes, errs := parseModes(l.from, l.text)
	r.errs = append(r.errs, errs...)
	for _, m := range modes {
		p := imagePath(m.path)
		from := fmt.Sprintf("%s:%d", l.from, m.line)
		e := r.entries[p]
		switch {
		case m.dir && e == nil:
			e = &Entry{Path: p, Mode: fs.ModeDir, From: from}
			r.entries[p] = e
		case m.dir != (e != nil && e.Mode.IsDir()) && e != nil:
			r.fail(from, fmt.Errorf("%s is a %s: a folder's line ends its path with a slash, any other's does not", m.path, kind(e.Mode)))
			continue
		case e == nil && r.empty[p]:
			continue
		case e == nil:
			r.fail(from, fmt.Errorf("no file %s in %s", m.path, r.tree.Name))
			continue
		}
		delete(r.closed, p)
		e.UID, e.GID, e.Secret, e.KeepExisting = m.uid, m.gid, m.secret, false
		if e.Mode&fs.ModeSymlink == 0 { // a link's own mode means nothing
			e.Mode = e.Mode.Type() | m.mode
		}
	}
}

// refuseClosed refuses the files that are closed to others here and that modes
// does not name. Taking over what the file system says is no way out: an image
// would depend on the umask of who builds it.
func (r *treeRenderer) refuseClosed() {
	for _, p := range slices.Sorted(maps.Keys(r.closed)) {
		c := r.closed[p]
		mode := 0o600
		if c.mode&0o111 != 0 {
			mode = 0o700
		}
		name := c.laid
		if strings.ContainsFunc(name, unicode.IsSpace) || strings.HasPrefix(name, "#") || strings.HasPrefix(name, `"`) {
			name = strconv.Quote(name)
		}
		r.fail(c.from, fmt.Errorf("closed to others here (%s), but everybody would read it in the image: add the line `%s %04o 0 0 secret` to %s/modes, with the owner's and the group's numbers for 0 0, or open the file", c.mode, name, mode, r.tree.Name))
	}
}

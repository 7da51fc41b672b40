package dependency

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"hatchery/internal/deb822"
)

// ReadIndex reads a Packages file, paragraph by paragraph. Packages of
// architectures other than the image's are taken too, as those of a
// multi-arch image. Nothing of them is in the Universe where it fails half-way:
// throw that away.
//
// Every paragraph must be one that a package can be fetched by: name, version,
// architecture, file name, size and SHA-256.
func (u *Universe) ReadIndex(r io.Reader, o *Origin) error {
	in := deb822.NewReader(r)
	read := reader{u: u}
	for {
		p, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = read.index(p, o)
		}
		if err != nil {
			return fmt.Errorf("cannot read the index of %s: %w", o.Name, err)
		}
	}
}

// ReadStatus reads dpkg's status file of the image.
func (u *Universe) ReadStatus(r io.Reader) error {
	read := reader{u: u}
	err := deb822.ReadStatus(r, read.status)
	if err != nil {
		return fmt.Errorf("cannot read dpkg's status file: %w", err)
	}
	return nil
}

// A reader turns paragraphs into versions.
type reader struct {
	u      *Universe
	record recordWriter
	fields fields
}

// fields are those of a paragraph that matter, found in one pass.
type fields struct {
	Package, Version, Architecture, Source, Filename, Size, InstalledSize, SHA256 string
	PreDepends, Depends, Conflicts, Breaks, Recommends, Suggests, Replaces        string
	Enhances, Provides, Priority, MultiArch, Essential, Important, Protected      string
}

func (f *fields) read(p *deb822.Paragraph) {
	*f = fields{}
	var lower [len("installed-size")]byte // the longest of them
	for i := range p.Fields {
		name := p.Fields[i].Name
		if len(name) > len(lower) {
			continue
		}
		for j := range len(name) {
			lower[j] = name[j]
			if c := name[j]; 'A' <= c && c <= 'Z' {
				lower[j] = c + 'a' - 'A'
			}
		}
		var to *string
		switch string(lower[:len(name)]) {
		case "package":
			to = &f.Package
		case "version":
			to = &f.Version
		case "architecture":
			to = &f.Architecture
		case "source":
			to = &f.Source
		case "filename":
			to = &f.Filename
		case "size":
			to = &f.Size
		case "installed-size":
			to = &f.InstalledSize
		case "sha256":
			to = &f.SHA256
		case "pre-depends":
			to = &f.PreDepends
		case "depends":
			to = &f.Depends
		case "conflicts":
			to = &f.Conflicts
		case "breaks":
			to = &f.Breaks
		case "recommends":
			to = &f.Recommends
		case "suggests":
			to = &f.Suggests
		case "replaces":
			to = &f.Replaces
		case "enhances":
			to = &f.Enhances
		case "provides":
			to = &f.Provides
		case "priority":
			to = &f.Priority
		case "multi-arch":
			to = &f.MultiArch
		case "essential":
			to = &f.Essential
		case "important":
			to = &f.Important
		case "protected":
			to = &f.Protected
		default:
			continue
		}
		*to = p.Fields[i].Value
	}
}

// wrong is an error about a paragraph.
func wrong(p *deb822.Paragraph, format string, args ...any) error {
	return &deb822.SyntaxError{Line: p.Line, Msg: fmt.Errorf(format, args...).Error()}
}

func (r *reader) index(p *deb822.Paragraph, o *Origin) error {
	u, f := r.u, &r.fields
	f.read(p)
	v, err := r.version(p)
	if err != nil {
		return err
	}
	if err := validFilename(f.Filename); err != nil {
		return wrong(p, "the package %s %w", f.Package, err)
	}
	v.size, err = strconv.ParseInt(f.Size, 10, 64)
	if err != nil || v.size < 0 {
		return wrong(p, "the package %s has no valid Size", f.Package)
	}
	if n, err := hex.Decode(v.sha256[:], []byte(f.SHA256[:min(64, len(f.SHA256))])); err != nil || n != 32 || len(f.SHA256) != 64 {
		return wrong(p, "the package %s has no valid SHA256", f.Package)
	}
	v.origin = o

	n := u.nameOf(f.Package)
	u.mention(n)
	id := u.packageOf(n, u.archOf(f.Architecture))
	if err := r.mentions(p, u.archs[u.packages[id].arch], true); err != nil {
		return err
	}
	same := u.versionOf(id, f.Version)
	if same == none {
		return r.provide(p, u.insert(id, v))
	}
	old := &u.versions[same]
	if old.origin != nil && !before(o, old.origin) {
		return nil // a better source has the same
	}
	if u.packages[id].current == same {
		// What is installed has the status file's relations; now it can be
		// fetched too.
		old.origin, old.size, old.sha256 = o, v.size, v.sha256
		old.text = replaceField(old.text, fieldFilename, f.Filename)
		return nil
	}
	return r.replace(p, same, v)
}

// before says whether one origin is better than another: by priority, then
// by its place among the sources.
func before(a, b *Origin) bool {
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	return a.Index < b.Index
}

func (r *reader) status(installed *deb822.Package) error {
	if installed.State == "not-installed" || installed.Version == "" {
		return nil
	}
	u, f, p := r.u, &r.fields, installed.Paragraph
	f.read(p)
	v, err := r.version(p)
	if err != nil {
		return err
	}
	n := u.nameOf(f.Package)
	id := u.packageOf(n, u.archOf(f.Architecture))
	if installed.Want == "hold" {
		u.packages[id].held = true
	}
	if !installed.Present() {
		return nil
	}
	if installed.State == "half-installed" || installed.Flag == "reinstreq" {
		u.packages[id].half = strings.Clone(f.Version)
		return nil
	}
	if u.packages[id].current != none {
		return wrong(p, "the package %s is installed twice", f.Package)
	}
	if err := r.mentions(p, u.archs[u.packages[id].arch], false); err != nil {
		return err
	}
	at := u.versionOf(id, f.Version)
	if at == none {
		at = u.insert(id, v)
		err = r.provide(p, at)
	} else {
		old := &u.versions[at]
		v.origin, v.size, v.sha256 = old.origin, old.size, old.sha256
		v.text = replaceField(v.text, fieldFilename, old.field(fieldFilename))
		err = r.replace(p, at, v)
	}
	u.packages[id].current = at
	u.installed = append(u.installed, id)
	return err
}

// version makes a version of a paragraph: what indexes and the status file
// have in common.
func (r *reader) version(p *deb822.Paragraph) (version, error) {
	f := &r.fields
	switch {
	case f.Package == "":
		return version{}, wrong(p, "a paragraph without a Package field")
	case !validName(f.Package):
		return version{}, wrong(p, "%s cannot be the name of a package", quote(f.Package))
	case f.Version == "" || strings.ContainsAny(f.Version, blank):
		return version{}, wrong(p, "the package %s has no valid Version", f.Package)
	case f.Architecture != "" && !validQualifier(f.Architecture):
		return version{}, wrong(p, "the package %s has no valid Architecture", f.Package)
	}
	for _, value := range []string{f.Version, f.Source, f.Filename, f.PreDepends, f.Depends, f.Conflicts, f.Breaks, f.Recommends, f.Suggests, f.Provides} {
		r.record.add(value)
	}
	v := version{
		text: r.record.take(), next: none,
		priority: priorityNumber(f.Priority), all: f.Architecture == "all",
		essential: yes(f.Essential), important: yes(f.Important) || yes(f.Protected),
	}
	switch f.MultiArch {
	case "same":
		v.multiArch = multiSame
	case "foreign":
		v.multiArch = multiForeign
	case "allowed":
		v.multiArch = multiAllowed
	}
	if kib, err := strconv.ParseInt(f.InstalledSize, 10, 64); err == nil && kib > 0 && kib < math.MaxInt64>>10 {
		v.unpacked = kib << 10
	}
	return v, nil
}

func yes(value string) bool { return strings.EqualFold(value, "yes") }

func priorityNumber(word string) uint8 {
	switch strings.ToLower(word) {
	case "required":
		return 1
	case "important":
		return 2
	case "standard":
		return 3
	case "optional":
		return 4
	case "":
		return 0 // as APT has it, before all others
	}
	return 5
}

// validFilename refuses what does not lie below the archive's root.
func validFilename(name string) error {
	switch {
	case name == "":
		return errors.New("has no Filename")
	case strings.HasPrefix(name, "/") || strings.ContainsAny(name, "\n\x00\\"):
		return fmt.Errorf("has the Filename %s, which is no path below the archive", quote(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return fmt.Errorf("has the Filename %s, which is no path below the archive", quote(name))
		}
	}
	return nil
}

// mentions looks at all relations of the paragraph, whether they are
// well-formed, and notes, for an index, in which order it mentions names:
// where nothing else decides between two packages, APT takes the one that it heard of last.
func (r *reader) mentions(p *deb822.Paragraph, architecture string, index bool) error {
	u, f := r.u, &r.fields
	note := func(relation Relation, _ bool) {
		if n := u.nameOf(relation.Name); index {
			u.mention(n)
		}
	}
	for _, field := range []struct{ name, value string }{
		{"Pre-Depends", f.PreDepends}, {"Depends", f.Depends}, {"Conflicts", f.Conflicts}, {"Breaks", f.Breaks}, {"Recommends", f.Recommends},
		{"Suggests", f.Suggests}, {"Replaces", f.Replaces}, {"Enhances", f.Enhances}, {"Provides", f.Provides},
	} {
		if field.value == "" {
			continue
		}
		if err := eachRelation(field.value, architecture, note, nil); err != nil {
			return wrong(p, "the package %s has a %s that is wrong: %w", f.Package, field.name, err)
		}
	}
	return nil
}

func (u *Universe) mention(n int32) {
	if u.names[n].order == none {
		u.names[n].order = u.mentioned
		u.mentioned++
	}
}

// versionOf gives a package's version by its text.
func (u *Universe) versionOf(p int32, text string) int32 {
	v := u.packages[p].versions
	for v != none && u.versionText(v) != text {
		v = u.versions[v].next
	}
	return v
}

// insert adds a version to a package, the newest first; of two that are equal
// but spelled differently the first one stays first.
func (u *Universe) insert(p int32, v version) int32 {
	id := int32(len(u.versions))
	v.pkg = p
	text := v.field(fieldVersion)
	at := &u.packages[p].versions
	for *at != none && deb822.CompareVersions(u.versionText(*at), text) >= 0 {
		at = &u.versions[*at].next
	}
	v.next = *at
	*at = id // before the append, which may move what at points into
	u.versions = append(u.versions, v)
	return id
}

// replace takes another record for the same version.
func (r *reader) replace(p *deb822.Paragraph, id int32, v version) error {
	u := r.u
	for _, list := range u.providesOf(id) {
		u.unlink(list, id)
	}
	v.pkg, v.next = u.versions[id].pkg, u.versions[id].next
	u.versions[id] = v
	return r.provide(p, id)
}

// providesOf names what a version provides.
func (u *Universe) providesOf(id int32) []int32 {
	var names []int32
	_ = eachRelation(u.versions[id].field(fieldProvides), u.native, func(r Relation, _ bool) {
		names = append(names, u.nameOf(r.Name))
	}, nil)
	return names
}

// unlink takes a version from those that provide a name.
func (u *Universe) unlink(n, owner int32) {
	for at := &u.names[n].providers; *at != none; {
		if entry := &u.provides[*at]; entry.owner == owner {
			*at = entry.next
		} else {
			at = &entry.next
		}
	}
}

// provide notes what a version provides.
func (r *reader) provide(p *deb822.Paragraph, id int32) error {
	u := r.u
	own := u.packages[u.versions[id].pkg].arch
	var fault error
	err := eachRelation(u.versions[id].field(fieldProvides), u.archs[own], func(relation Relation, first bool) {
		switch {
		case relation.Operator != "" && relation.Operator != "=":
			return // APT leaves such a one out, too
		case !first:
			fault = errors.New("alternatives in Provides")
			return
		}
		n := u.nameOf(relation.Name)
		entry := provide{version: strings.Clone(relation.Version), owner: id, arch: own, next: u.names[n].providers}
		if q := relation.Qualifier; q != "" && q != "any" {
			entry.explicit = true
			if q != "native" {
				entry.arch = u.archOf(q)
			}
		}
		u.names[n].providers = int32(len(u.provides))
		u.provides = append(u.provides, entry)
	}, nil)
	if err = errors.Join(err, fault); err != nil {
		return wrong(p, "the package %s has a Provides that is wrong: %w", u.title(u.versions[id].pkg), err)
	}
	return nil
}

// replaceField exchanges one field of a version's text.
func replaceField(text string, n int, value string) string {
	parts := strings.Split(text, "\n")
	parts[n] = value
	return strings.Join(parts, "\n")
}

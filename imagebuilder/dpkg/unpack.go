package dpkg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"hatchery/internal/ext4"
)

// An unpacker unpacks packages, one after the other.
type unpacker struct {
	db      *database
	root    *ext4.FS
	options Options
	left    int64 // bytes that data.tar may still have
	scripts *scripts
	marks   []mark
}

// check looks at all packages before anything is written.
func (u *unpacker) check(packages []Package) error {
	seen := map[string]string{}
	for _, p := range packages {
		c, err := open(p)
		if err != nil {
			return err
		}
		if first, twice := seen[c.name]; twice {
			return &InputError{fmt.Errorf("%s and %s are both package %s: name one of them", first, p.Name, c.name)}
		}
		seen[c.name] = p.Name
		if c.arch != u.db.architecture && c.arch != "all" {
			return &InputError{&ArchitectureError{p.Name, c.arch, u.db.architecture}}
		}
		r := u.db.place(c)
		if r == nil || !r.present() {
			continue
		}
		if !u.options.Upgrade {
			return &InputError{&PresentError{c.name, r.version, c.version}}
		}
		r.ahead = true
	}
	return nil
}

// open reads a package's control information.
func open(p Package) (*candidate, error) {
	control, err := p.Deb.Control()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", p.Name, err)
	}
	c, err := newCandidate(control)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", p.Name, err)
	}
	return c, nil
}

// place finds the package that a candidate becomes another version of: of its
// architecture, or the only one of its name that it cannot be beside.
func (db *database) place(c *candidate) *record {
	var found *record
	for _, r := range db.byName[c.name] {
		if r.arch == c.arch {
			return r
		}
		if r.state != notInstalled && !(r.same && c.same) && !db.foreign(r) {
			found = r
		}
	}
	return found
}

// An unpacking is one package under way (src/main/unpack.c, process_archive).
type unpacking struct {
	*unpacker
	ctx context.Context
	c   *candidate
	r   *record // what the database has of it, of the version before until all is done

	files     []string // what its list will have
	confs     []string // its conffiles, in order; below, what is known of a path
	fresh     map[string]string
	digests   map[string]string // of regular files that were laid
	inArchive map[string]bool
	oldConf   map[string]string // digests of the version before
	obsolete  map[string]bool
	goes      map[string]bool // conffiles to be removed on upgrade
	filtered  map[string]bool
	laid      map[string]bool
	said      map[*record]int // who replaces whose files
	inSync    bool            // all its instances will be of one version
	upgrades  bool            // another version is there

	checked map[string]string // where folders really are, of those that lead nowhere outside
	places  map[string]string // the paths of the package's files, by where they really are
	touched map[string]bool   // folders in which something changed
	plain   []string          // the regular files that were laid, where they are
}

const (
	newSuffix  = ".dpkg-new"
	tmpSuffix  = ".dpkg-tmp"
	oldSuffix  = ".dpkg-old"
	distSuffix = ".dpkg-dist"
)

// unpack unpacks one package.
func (u *unpacker) unpack(ctx context.Context, p Package) (*Unpacked, error) {
	c, err := open(p)
	if err != nil {
		return nil, err
	}
	r := u.db.place(c)
	if r == nil {
		r = &record{name: c.name, arch: c.arch, want: "unknown", flag: "ok"}
		u.db.add(r)
	}
	r.ahead = false
	if err := u.checkRelations(c); err != nil {
		return nil, err
	}
	broken, err := u.broken(c)
	if err != nil {
		return nil, err
	}
	k := &unpacking{
		unpacker: u, ctx: ctx, c: c, r: r, inSync: u.inSync(c),
		fresh: map[string]string{}, digests: map[string]string{}, inArchive: map[string]bool{}, oldConf: map[string]string{}, obsolete: map[string]bool{},
		goes: map[string]bool{}, filtered: map[string]bool{}, laid: map[string]bool{}, said: map[*record]int{}, checked: map[string]string{}, places: map[string]string{}, touched: map[string]bool{},
	}
	if err := k.prepare(broken); err != nil {
		return nil, err
	}
	if err := k.data(p.Deb); err != nil {
		return nil, err
	}
	if err := k.finish(); err != nil {
		return nil, err
	}
	u.marks = append(u.marks, mark{c.name, u.db.markArchitecture(c.arch), p.Automatic})
	slices.Sort(k.plain)
	source, sourceVersion := c.source()
	return &Unpacked{
		Name: c.name, Version: c.version, Architecture: c.arch, Source: source, SourceVersion: sourceVersion,
		InstalledSize: c.installedSize(), Automatic: p.Automatic, Files: slices.Compact(k.plain),
	}, nil
}

// markArchitecture is what APT takes a package to be for: those for all are
// the system's.
func (db *database) markArchitecture(arch string) string {
	if arch == "all" {
		return db.architecture
	}
	return arch
}

// inSync says whether all instances of a package, for whatever architecture,
// are going to have one version.
func (u *unpacker) inSync(c *candidate) bool {
	for _, other := range u.db.byName[c.name] {
		if other.arch != c.arch && other.present() && other.version != c.version {
			return false
		}
	}
	return true
}

// prepare does what comes before the files.
func (k *unpacking) prepare(broken []*record) error {
	if err := k.setOff(k.r); err != nil {
		return err
	}
	if err := k.setOffNew(); err != nil {
		return err
	}
	if err := k.readConffiles(); err != nil {
		return err
	}
	for _, conf := range k.r.conffiles {
		k.oldConf[conf.path] = conf.digest
	}
	before := k.r.state
	k.upgrades = before >= unpacked
	if before >= halfConfigured {
		k.r.state = halfConfigured
		k.db.noted(k.r)
		if err := k.scripts.addOld(k.r, "prerm", "upgrade", k.c.version); err != nil {
			return err
		}
		k.r.state = unpacked
		k.db.noted(k.r)
	}
	for _, other := range broken {
		if err := k.setOff(other); err != nil {
			return err
		}
		other.state = halfConfigured
		k.db.noted(other)
		if err := k.scripts.addOld(other, "prerm", "deconfigure", "in-favour", k.db.unambiguous(&k.c.record), k.c.version); err != nil {
			return err
		}
	}
	if err := k.recordPreinst(before); err != nil {
		return err
	}
	k.r.state = halfInstalled
	k.db.noted(k.r)
	return nil
}

// recordPreinst notes the new version's preinst.
func (k *unpacking) recordPreinst(before state) error {
	if _, ok := k.c.files["preinst"]; !ok {
		return nil
	}
	if err := k.configureBefore(k.c); err != nil {
		return err
	}
	switch before {
	case notInstalled:
		k.scripts.add(&k.c.record, "preinst", "install")
	case configFiles:
		k.scripts.add(&k.c.record, "preinst", "install", k.r.version, k.c.version)
	default:
		k.scripts.add(&k.c.record, "preinst", "upgrade", k.r.version, k.c.version)
	}
	return nil
}

// setOff sets off the triggers that a package sets off whenever its state
// changes.
func (k *unpacking) setOff(r *record) error {
	list, err := k.directives(r)
	if err != nil {
		return err
	}
	return k.setOffAll(list, r)
}

func (k *unpacking) setOffNew() error {
	list, err := parseDirectives(string(k.c.files["triggers"].Content))
	if err != nil {
		return fmt.Errorf("its control file triggers: %w", err)
	}
	return k.setOffAll(list, k.r)
}

func (k *unpacking) setOffAll(list []directive, r *record) error {
	for _, d := range list {
		if d.interest {
			continue
		}
		awaiter := r
		if d.noAwait {
			awaiter = nil
		}
		if err := k.db.activate(d.trigger, awaiter); err != nil {
			return err
		}
	}
	return nil
}

// directives reads the control file triggers that a package has in info.
func (k *unpacking) directives(r *record) ([]directive, error) {
	name := infoFile(r, "triggers")
	text, err := k.db.readText(name, maxTable)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := parseDirectives(text)
	var wrong *lineError
	if errors.As(err, &wrong) {
		err = databaseErrorf(name, wrong.line, "%s", wrong.detail)
	}
	return list, err
}

// readConffiles reads which of the package's files are configuration, and what
// is known of those that are there (src/main/unpack.c, deb_parse_conffiles).
func (k *unpacking) readConffiles() error {
	const maxName = 1000 // MAXCONFFILENAME
	text := string(k.c.files["conffiles"].Content)
	number := 0
	for line := range strings.Lines(text) {
		number++
		wrong := func(what string) error {
			return fmt.Errorf("its control file conffiles, line %d: %s", number, what)
		}
		if !strings.HasSuffix(line, "\n") || len(line) >= maxName {
			return wrong("it is too long, or has no end")
		}
		if line == "\n" {
			return wrong("an empty line")
		}
		name := strings.TrimRight(line, blanks+"\n")
		if name == "" {
			continue
		}
		goes := false
		if name[0] != '/' {
			flag, rest, ok := strings.Cut(name, " ")
			if !ok || flag != "remove-on-upgrade" || !strings.HasPrefix(rest, "/") {
				return wrong(fmt.Sprintf("%.80q is not an absolute path", name))
			}
			name, goes = rest, true
		}
		name = nodeName(name)
		k.confs = append(k.confs, name)
		if goes {
			k.goes[name] = true
		}
		k.fresh[name] = k.knownDigest(name)
	}
	return nil
}

// isConf says whether a path is a configuration file of the new version.
func (k *unpacking) isConf(name string) bool {
	_, ok := k.fresh[name]
	return ok && !k.goes[name]
}

// knownDigest is what the status file says of a configuration file: what this
// package has, or another one.
func (k *unpacking) knownDigest(name string) string {
	digest := newConffile
	for _, other := range slices.Backward(k.db.owners[name]) {
		for _, conf := range other.conffiles {
			if conf.path != name {
				continue
			}
			digest = conf.digest
			if other == k.r {
				return digest
			}
			break
		}
	}
	return digest
}

// finish does what comes after the files.
func (k *unpacking) finish() error {
	if k.upgrades {
		if err := k.scripts.addOld(k.r, "postrm", "upgrade", k.c.version); err != nil {
			return err
		}
	}
	if err := k.removeOldFiles(); err != nil {
		return err
	}
	former := *k.r
	if err := k.moveInterests(&former); err != nil {
		return err
	}
	if err := k.updateInfo(&former); err != nil {
		return err
	}
	k.updateRecord()
	if err := k.db.writeList(k.r, k.files); err != nil {
		return err
	}
	if err := k.disappearOthers(); err != nil {
		return err
	}
	if err := k.takeFromOthers(); err != nil {
		return err
	}
	k.r.state, k.r.flag, k.r.want, k.r.fresh = unpacked, "ok", "install", true
	if k.options.Hold {
		k.r.want = "hold"
	}
	k.db.noted(k.r)
	for _, dir := range slices.Sorted(maps.Keys(k.touched)) {
		if err := k.root.Chtimes(dir, k.options.Epoch); err != nil && !missing(err) {
			return err
		}
	}
	return nil
}

// moveInterests forgets the triggers that the version before was interested
// in, and notes those of the new one.
func (k *unpacking) moveInterests(former *record) error {
	list, err := k.directives(former)
	if err != nil {
		return err
	}
	for _, d := range list {
		if d.interest {
			if err := k.db.removeInterest(k.r, d); err != nil {
				return err
			}
		}
	}
	list, err = parseDirectives(string(k.c.files["triggers"].Content))
	if err != nil {
		return err
	}
	k.r.same, k.r.arch = k.c.same, k.c.arch // as its name has to be from now on
	for _, d := range list {
		if d.interest {
			if err := k.db.addInterest(k.r, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// updateInfo brings info in line with the new version (src/main/unpack.c,
// pkg_infodb_update).
func (k *unpacking) updateInfo(former *record) error {
	keep := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(k.c.files)) {
		f := k.c.files[name]
		keep[k.c.infoName()+"."+name] = true
		if err := k.db.write(infoFile(&k.c.record, name), string(f.Content), f.Mode); err != nil {
			return err
		}
	}
	keep[k.c.infoName()+".list"] = true
	if _, ok := k.c.files["md5sums"]; !ok {
		keep[k.c.infoName()+".md5sums"] = true
		if err := k.db.write(infoFile(&k.c.record, "md5sums"), k.md5sums(), 0o644); err != nil {
			return err
		}
	}
	return k.db.removeInfo(keep, k.c.infoName(), former.infoName())
}

// removeInfo removes from info what packages with these names have there, but
// for some files.
func (db *database) removeInfo(keep map[string]bool, names ...string) error {
	entries, err := db.root.ReadDir(infoDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := strings.LastIndexByte(e.Name, '.')
		if at <= 0 || keep[e.Name] || !slices.Contains(names, e.Name[:at]) {
			continue
		}
		if err := db.root.Remove(path.Join(infoDir, e.Name)); err != nil {
			return err
		}
	}
	return nil
}

// md5sums is what dpkg makes itself where a package has none
// (lib/dpkg/db-fsys-digest.c, write_filehash_except).
func (k *unpacking) md5sums() string {
	var b strings.Builder
	for _, name := range k.files {
		if digest, ok := k.digests[name]; ok {
			b.WriteString(digest + "  " + name[1:] + "\n")
		}
	}
	return b.String()
}

// updateRecord gives the database's record what the new version says.
func (k *unpacking) updateRecord() {
	r, c := k.r, k.c
	// Both lie outside of what a version says (struct pkginfo): they stay
	// where the new one says nothing.
	for _, name := range []string{"Priority", "Section"} {
		if _, ok := lookup(c.fields, name); !ok {
			if value := r.get(name); value != "" {
				c.fields = append(c.fields, field{name: name, value: value})
			}
		}
	}
	r.version, r.fields = c.version, c.fields
	r.conffiles = nil
	for _, name := range k.confs {
		r.conffiles = append(r.conffiles, conffile{path: name, digest: k.fresh[name], obsolete: k.obsolete[name], removeOnUpgrade: k.goes[name]})
	}
}

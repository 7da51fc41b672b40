package dpkg

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"hatchery/internal/deb822"
)

// A state is how far dpkg is with a package, in the order that dpkg counts
// them in.
type state int

const (
	notInstalled state = iota
	configFiles
	halfInstalled
	unpacked
	halfConfigured
	triggersAwaited
	triggersPending
	installed
)

var stateNames = []string{"not-installed", "config-files", "half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending", "installed"}

func (s state) String() string { return stateNames[s] }

// A conffile is a configuration file as the status file has it.
type conffile struct {
	path, digest              string
	obsolete, removeOnUpgrade bool
}

const (
	newConffile = "newconffile" // the digest of one that was never installed
	// maxStatus bounds the status file: a large desktop's has 10 MiB.
	maxStatus = 64 << 20
	// Debian has some hundred thousand packages, and two dozen architectures.
	maxRecords, maxInstances = 300_000, 100
)

// A record is what dpkg knows of one package.
type record struct {
	name, arch, version string
	same                bool // Multi-Arch: same
	want, flag          string
	state               state
	configured          string // the version that was configured last; "" for none
	conffiles           []conffile
	pending             []string  // the triggers to be run, the one noted last first
	awaited             []*record // the packages whose triggers it waits for
	fields              []field   // as the control file has them
	raw                 string    // the paragraph as it was read, while that is what it is
	line                int       // in the status file

	files []string // what its list in info has: clean paths, "/." for the root
	owns  bool     // files counts in the database's owners
	fresh bool     // unpacked by this run
	ahead bool     // this run is going to unpack another version
}

// present says whether its files are there.
func (r *record) present() bool { return r.state > configFiles }

func (r *record) get(name string) string {
	value, _ := lookup(r.fields, name)
	return value
}

// infoName is how its files in info begin, and what the trigger files call it
// (lib/dpkg/pkg-show.c, pnaw_same).
func (r *record) infoName() string {
	if r.same {
		return r.name + ":" + r.arch
	}
	return r.name
}

// relations reads one of its fields that relate it to others.
func (r *record) relations(name string) ([][]relation, error) {
	return parseRelations(name, r.get(name))
}

// unambiguous is its name as the status file's fields have it
// (pnaw_nonambig).
func (db *database) unambiguous(r *record) string {
	if r.same || db.foreign(r) {
		return r.name + ":" + r.arch
	}
	return r.name
}

func (db *database) foreign(r *record) bool {
	return r.arch != db.architecture && r.arch != "all" && r.arch != ""
}

// readStatus reads the status file.
func (db *database) readStatus() error {
	text, err := db.readText(deb822.StatusFile, maxStatus)
	if errors.Is(err, fs.ErrNotExist) {
		return databaseErrorf(deb822.StatusFile, 0, "there is none: no dpkg was at work here")
	}
	if err != nil {
		return err
	}
	err = readStanzas(text, func(s *stanza) error {
		r, err := newRecord(s)
		if err != nil {
			return err
		}
		if r == nil {
			db.rewrite = true
			return nil
		}
		for _, other := range db.byName[r.name] {
			if other.arch == r.arch {
				return &lineError{s.line, fmt.Sprintf("a second paragraph of %s", r.name)}
			}
		}
		if len(db.records) == maxRecords || len(db.byName[r.name]) == maxInstances {
			return &lineError{s.line, "more packages than any system has"}
		}
		db.add(r)
		return nil
	})
	if err == nil {
		err = db.linkAwaited()
	}
	var wrong *lineError
	if errors.As(err, &wrong) {
		return databaseErrorf(deb822.StatusFile, wrong.line, "%s", wrong.detail)
	}
	return err
}

// newRecord takes a paragraph of the status file; nil is one that dpkg drops
// when it writes the file the next time (lib/dpkg/parse.c, pkg_parse_verify).
func newRecord(s *stanza) (*record, error) {
	wrong := func(format string, args ...any) error { return &lineError{s.line, fmt.Sprintf(format, args...)} }
	r := &record{
		name: strings.ToLower(s.get("Package")), arch: s.get("Architecture"),
		same: strings.EqualFold(s.get("Multi-Arch"), "same"), fields: s.fields, raw: s.raw, line: s.line,
	}
	if !validName(r.name) {
		return nil, wrong("%.60q cannot be a package", r.name)
	}
	words := strings.Fields(s.get("Status"))
	if len(words) != 3 {
		return nil, wrong("the Status of %s is not three words", r.name)
	}
	r.want, r.flag = words[0], words[1]
	if i := slices.Index(stateNames, words[2]); i >= 0 {
		r.state = state(i)
	} else {
		return nil, wrong("%s is %.60q, which is no state of a package", r.name, words[2])
	}
	if !slices.Contains([]string{"unknown", "install", "hold", "deinstall", "purge"}, r.want) || r.flag != "ok" && r.flag != "reinstreq" {
		return nil, wrong("the Status of %s is %.60q, which none can be", r.name, s.get("Status"))
	}
	if r.state == notInstalled && r.flag == "ok" && (r.want != "install" && r.want != "hold" || r.want == "install" && r.arch == "") {
		return nil, nil
	}
	if r.arch != "" && !validArchitecture(r.arch) || r.arch == "" && r.present() {
		return nil, wrong("%s is for the architecture %.60q, which cannot be", r.name, r.arch)
	}
	var err error
	if version := s.get("Version"); version != "" {
		if r.version, err = canonicalVersion(version); err != nil {
			return nil, wrong("%s: %v", r.name, err)
		}
	} else if r.present() {
		return nil, wrong("%s has no Version", r.name)
	}
	if version := s.get("Config-Version"); version != "" {
		if r.configured, err = canonicalVersion(version); err != nil {
			return nil, wrong("%s: %v", r.name, err)
		}
	} else if r.state == installed || r.state == triggersPending {
		r.configured = r.version
	}
	if r.conffiles, err = parseConffiles(s.get("Conffiles")); err != nil {
		return nil, wrong("%s: %v", r.name, err)
	}
	// dpkg puts each of them before the others, when it reads them too.
	r.pending = strings.Fields(s.get("Triggers-Pending"))
	slices.Reverse(r.pending)
	switch {
	case len(r.pending) > 0 && r.state != triggersPending && r.state != triggersAwaited,
		len(r.pending) == 0 && r.state == triggersPending:
		return nil, wrong("%s is %s, with %d triggers pending", r.name, r.state, len(r.pending))
	case len(r.pending) > 1:
		r.raw = ""
	}
	return r, nil
}

// linkAwaited finds the packages that others wait for.
func (db *database) linkAwaited() error {
	for _, r := range db.records {
		for _, word := range strings.Fields(r.get("Triggers-Awaited")) {
			other := db.find(word)
			if other == nil {
				name, arch, _ := strings.Cut(word, ":")
				if !validName(name) || arch != "" && !validArchitecture(arch) {
					return &lineError{r.line, fmt.Sprintf("%s awaits the triggers of %.60q, which cannot be a package", r.name, word)}
				}
				r.raw = "" // there is nobody to run them
				continue
			}
			r.awaited = append(r.awaited, other)
		}
	}
	// Who waits for one that has nothing to run waits no more.
	for _, r := range db.records {
		before := len(r.awaited)
		r.awaited = slices.DeleteFunc(r.awaited, func(other *record) bool { return len(other.pending) == 0 })
		if len(r.awaited) < before {
			r.raw = ""
		}
		if r.raw == "" && r.state == triggersAwaited && len(r.awaited) == 0 {
			r.waitNoMore()
		}
	}
	return nil
}

// parseConffiles reads the field Conffiles.
func parseConffiles(value string) ([]conffile, error) {
	var list []conffile
	for line := range strings.SplitSeq(value, "\n") {
		line = strings.TrimPrefix(line, " ")
		if line == "" {
			continue
		}
		var c conffile
		rest := line
		for _, flag := range []struct {
			name string
			set  *bool
		}{{" remove-on-upgrade", &c.removeOnUpgrade}, {" obsolete", &c.obsolete}} {
			if cut, ok := strings.CutSuffix(rest, flag.name); ok {
				rest, *flag.set = cut, true
			}
		}
		at := strings.LastIndexByte(rest, ' ')
		if at <= 0 || rest[0] != '/' || at == len(rest)-1 {
			return nil, fmt.Errorf("its field Conffiles has the line %.80q", line)
		}
		c.path, c.digest = nodeName(rest[:at]), rest[at+1:]
		list = append(list, c)
	}
	return list, nil
}

// statusOrder are the fields in the order in which dpkg writes them
// (lib/dpkg/parse.c, fieldinfos); others come behind, as they came.
var statusOrder = []string{
	"Package", "Essential", "Protected", "Status", "Priority", "Section", "Installed-Size", "Origin", "Maintainer", "Bugs",
	"Architecture", "Multi-Arch", "Source", "Version", "Config-Version",
	fieldReplaces, fieldProvides, fieldDepends, fieldPreDepends, "Recommends", "Suggests", fieldBreaks, fieldConflicts, "Enhances",
	"Conffiles", "Description", "Triggers-Pending", "Triggers-Awaited",
}

// inStatus are those that are not copied from a control file to the status
// file: what dpkg writes itself, and what an archive's index adds.
var inStatus = []string{"Status", "Config-Version", "Conffiles", "Triggers-Pending", "Triggers-Awaited", "Filename", "Size", "MD5sum", "MSDOS-Filename"}

// stanza writes a record as a paragraph of the status file.
func (db *database) stanza(r *record) string {
	if r.raw != "" {
		return r.raw
	}
	var b strings.Builder
	line := func(name, value string) { b.WriteString(name + ": " + value + "\n") }
	for _, name := range statusOrder {
		switch name {
		case "Package":
			line(name, r.name)
		case "Status":
			line(name, r.want+" "+r.flag+" "+r.state.String())
		case "Version":
			if r.version != "" {
				line(name, r.version)
			}
		case "Config-Version":
			if r.configured != "" && r.state != installed && r.state != notInstalled && r.state != triggersPending {
				line(name, r.configured)
			}
		case "Conffiles":
			if len(r.conffiles) > 0 {
				b.WriteString(name + ":\n")
			}
			for _, c := range r.conffiles {
				b.WriteString(" " + c.path + " " + c.digest)
				if c.obsolete {
					b.WriteString(" obsolete")
				}
				if c.removeOnUpgrade {
					b.WriteString(" remove-on-upgrade")
				}
				b.WriteString("\n")
			}
		case "Triggers-Pending":
			if len(r.pending) > 0 {
				line(name, strings.Join(r.pending, " "))
			}
		case "Triggers-Awaited":
			if len(r.awaited) > 0 {
				names := make([]string, len(r.awaited))
				for i, other := range r.awaited {
					names[i] = db.unambiguous(other)
				}
				line(name, strings.Join(names, " "))
			}
		default:
			if value, ok := lookup(r.fields, name); ok && value != "" {
				line(name, value)
			}
		}
	}
	for _, f := range r.fields {
		if !contains(statusOrder, f.name) && !contains(inStatus, f.name) {
			line(f.name, f.value)
		}
	}
	return b.String()
}

func contains(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// status writes the status file.
func (db *database) status() string {
	list := slices.Clone(db.records)
	slices.SortStableFunc(list, func(a, b *record) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		// pkg_sorter_by_nonambig_name_arch (lib/dpkg/pkg-show.c)
		ambiguous := func(r *record) int {
			if r.same || db.foreign(r) {
				return 1
			}
			return 0
		}
		if ambiguous(a) == 0 && ambiguous(b) == 0 {
			return 0 // in the order in which dpkg came to know them
		}
		return cmp.Or(ambiguous(a)-ambiguous(b), strings.Compare(a.arch, b.arch))
	})
	var b strings.Builder
	for _, r := range list {
		if r.state == notInstalled && r.want == "unknown" {
			continue
		}
		b.WriteString(db.stanza(r))
		b.WriteString("\n")
	}
	return b.String()
}

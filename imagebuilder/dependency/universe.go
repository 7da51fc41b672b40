package dependency

import (
	"encoding/hex"
	"slices"
	"strings"

	"hatchery/internal/deb822"
)

// An Origin is one index of a package archive.
type Origin struct {
	Name string // for messages: "https://archive.example/debian bookworm/main armhf"
	URI  string // the archive's root: a Filename is relative to it
	// Priority is APT's: 500 as a rule, 100 for an archive that is
	// NotAutomatic but ButAutomaticUpgrades, 1 for one that is NotAutomatic,
	// or what a pin says (apt_preferences(5)).
	Priority int
	// Index is its place among the sources: of two equal ones the first counts.
	Index int
}

// A Candidate is one version of a package that an index has.
type Candidate struct {
	Name, Version, Architecture string // Architecture as its index has it: "all" too
	Filename                    string // relative to the origin's URI
	Size, InstalledSize         int64  // bytes
	SHA256                      string // hexadecimal
	Source, SourceVersion       string // the source package that it was built from
	Origin                      *Origin
}

// A Universe is what packages there are, and which of them are installed. It
// is for one goroutine at a time.
type Universe struct {
	native string
	archs  []string // by number; 0 is native

	byName    map[string]int32
	names     []name
	packages  []pkg
	versions  []version
	provides  []provide
	installed []int32 // packages, in the status file's order
	mentioned int32   // how many names an index has mentioned so far
}

const none = int32(-1)

// A name is a package's, or that of something packages provide or depend on.
type name struct {
	text      string
	order     int32 // in which indexes mention it first; none for what they do not
	packages  int32 // the first of the name
	providers int32 // the first provide
}

// A pkg is all versions of one name and architecture. Those for all
// architectures count as the native one's.
type pkg struct {
	name     int32
	next     int32 // of the same name
	versions int32 // the first; the newest one first
	current  int32 // the version that is installed, or none
	arch     uint16
	held     bool
	// half says that its files are half there: it is neither installed, nor
	// can it be taken for new.
	half string
}

// A version keeps what decides, and where the rest is found.
type version struct {
	text      string // fields, see record.go
	parsed    *relations
	origin    *Origin // nil for what only the status file has
	pkg, next int32   // next is an older one of the package
	size      int64
	unpacked  int64
	sha256    [32]byte
	priority  uint8 // Debian's: 1 required … 5 extra
	multiArch uint8
	essential bool
	important bool
	all       bool
}

// Values of version.multiArch.
const (
	multiNo = iota
	multiSame
	multiForeign
	multiAllowed
)

type provide struct {
	version  string // or ""
	owner    int32  // version
	next     int32
	arch     uint16 // of whom it is said to be; the owner's as a rule
	explicit bool   // the arch is written there
}

// NewUniverse is empty. The architecture is the image's, as Debian calls it.
func NewUniverse(architecture string) *Universe {
	return &Universe{native: architecture, archs: []string{architecture}, byName: map[string]int32{}}
}

// Len is how many versions of packages are known.
func (u *Universe) Len() int { return len(u.versions) }

// nameOf gives the number of a name, which is copied where it is new.
func (u *Universe) nameOf(text string) int32 {
	if n, ok := u.byName[text]; ok {
		return n
	}
	n := int32(len(u.names))
	text = strings.Clone(text)
	u.names = append(u.names, name{text: text, order: none, packages: none, providers: none})
	u.byName[text] = n
	return n
}

func (u *Universe) archOf(text string) uint16 {
	if text == "all" || text == "" {
		return 0
	}
	i := slices.Index(u.archs, text)
	if i < 0 {
		i = len(u.archs)
		u.archs = append(u.archs, strings.Clone(text))
	}
	return uint16(i)
}

// packageOf gives the package of a name and architecture, made where it is new.
func (u *Universe) packageOf(n int32, arch uint16) int32 {
	if p := u.find(n, arch); p != none {
		return p
	}
	p := int32(len(u.packages))
	u.packages = append(u.packages, pkg{name: n, arch: arch, next: none, versions: none, current: none})
	// At the end, so that equal input gives equal order.
	at := &u.names[n].packages
	for *at != none {
		at = &u.packages[*at].next
	}
	*at = p
	return p
}

func (u *Universe) find(n int32, arch uint16) int32 {
	p := u.names[n].packages
	for p != none && u.packages[p].arch != arch {
		p = u.packages[p].next
	}
	return p
}

// title is how a package is called: with its architecture where that is not
// the image's.
func (u *Universe) title(p int32) string {
	t := u.names[u.packages[p].name].text
	if a := u.packages[p].arch; a != 0 {
		t += ":" + u.archs[a]
	}
	return t
}

// titleVersion is a package's title with one of its versions.
func (u *Universe) titleVersion(v int32) string {
	return u.title(u.versions[v].pkg) + " " + u.versionText(v)
}

func (u *Universe) versionText(v int32) string { return u.versions[v].field(fieldVersion) }

func (u *Universe) candidate(v int32) Candidate {
	r := &u.versions[v]
	p := &u.packages[r.pkg]
	c := Candidate{
		Name: u.names[p.name].text, Version: r.field(fieldVersion), Architecture: u.archs[p.arch],
		Filename: r.field(fieldFilename), Size: r.size, InstalledSize: r.unpacked, Origin: r.origin,
	}
	if r.all {
		c.Architecture = "all"
	}
	if r.sha256 != [32]byte{} {
		c.SHA256 = hex.EncodeToString(r.sha256[:])
	}
	c.Source, c.SourceVersion = u.source(v)
	return c
}

// source gives the source package of a version: the same name and version,
// unless its Source field says otherwise.
func (u *Universe) source(v int32) (name, version string) {
	r := &u.versions[v]
	name, version = u.names[u.packages[r.pkg].name].text, r.field(fieldVersion)
	said := r.field(fieldSource)
	if said == "" {
		return name, version
	}
	said, rest, ok := strings.Cut(said, " ")
	if ok {
		version = strings.Trim(rest, " ()")
	}
	return said, version
}

// priorityOf is a version's, as APT computes it: the highest of those who
// have it; what is installed has 100 at least.
func (u *Universe) priorityOf(v int32) int {
	r := &u.versions[v]
	priority := -1
	if r.origin != nil {
		priority = r.origin.Priority
	}
	if u.packages[r.pkg].current == v {
		priority = max(priority, 100)
	}
	return priority
}

// best is the version of a package that is to be had: of the highest
// priority, and of those the newest. Older than what is installed only with a
// priority of 1000 (apt_preferences(5)).
func (u *Universe) best(p int32) int32 {
	best, priority := none, 0
	current := u.packages[p].current
	for v := u.packages[p].versions; v != none; v = u.versions[v].next {
		of := u.priorityOf(v)
		if of <= priority {
			continue
		}
		if current != none && of < 1000 && deb822.CompareVersions(u.versionText(v), u.versionText(current)) < 0 {
			continue
		}
		best, priority = v, of
	}
	return best
}

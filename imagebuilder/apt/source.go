package apt

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"hatchery/internal/download"
)

// Root is what is read of an image's root file system; a release.Root is one.
// Paths are absolute and slash-separated, and links are followed. What does
// not exist is an error that is fs.ErrNotExist.
type Root interface {
	ReadFile(path string) ([]byte, error)
	// ReadDir gives the names in a folder, in any order.
	ReadDir(path string) ([]string, error)
}

// Sources are what an image's APT configuration says.
type Sources struct {
	List []Source
	Pins []Pin
	// Notes are what stands in the configuration and is not heeded: the user
	// should hear of it, as apt on the image goes by it.
	Notes []Note

	trusted []Keyring // for sources that name no keyring
}

// A Note is about a line of the image's configuration.
type Note struct {
	From string // "/etc/apt/sources.list:3"
	Text string
}

func (n Note) String() string { return n.From + ": " + n.Text }

// A Source is one suite of one archive.
type Source struct {
	From string // where it stands: "/etc/apt/sources.list:3"
	URI  string // of the archive, without a slash at its end
	// Suite is the folder below dists. With a slash at its end it is one of
	// the archive itself that has all in it ("./").
	Suite      string
	Components []string // none for such a one
	// Architectures are the only ones that this source is for; any where
	// there are none.
	Architectures []string

	// SignedBy are the keyrings one of whose keys must have signed the
	// Release file, and Fingerprints the only keys of them that count, where
	// there are some (40 or more hexadecimal digits; with ! at the end
	// without the key's subkeys).
	SignedBy     []Keyring
	Fingerprints []string

	CheckValidUntil *bool // nil: yes
	CheckDate       *bool // nil: yes
	// ByHash says whether indexes are asked for by their digest: yes or no,
	// or force where the Release file does not say that they can be; "" is
	// as the Release file says.
	ByHash string

	// Own says that the source is the user's, not the image's: mistakes in it
	// are mistakes of the user.
	Own bool
}

// A Keyring is a file of OpenPGP keys, binary or armored.
type Keyring struct {
	Name string // where it lies: "/usr/share/keyrings/raspbian-archive-keyring.gpg"
	Data []byte // nil where there is no such file
}

// String names the source for people; an account in its URI is left out.
func (s *Source) String() string { return download.Shown(s.URI) + " " + s.Suite }

// flat says whether the source has no dists folder.
func (s *Source) flat() bool { return strings.HasSuffix(s.Suite, "/") }

// folder is where the Release file lies.
func (s *Source) folder() string {
	if !s.flat() {
		return s.URI + "/dists/" + escape(s.Suite)
	}
	if suite := strings.Trim(path.Clean("/"+s.Suite), "/"); suite != "" {
		return s.URI + "/" + escape(suite)
	}
	return s.URI
}

// escape writes a path into a URL.
func escape(path string) string { return (&url.URL{Path: path}).EscapedPath() }

const (
	sourcesFile   = "/etc/apt/sources.list"
	sourcesFolder = "/etc/apt/sources.list.d"
	trustedFile   = "/etc/apt/trusted.gpg"
	trustedFolder = "/etc/apt/trusted.gpg.d"
)

// ReadSources reads the sources of an image for the given architecture, with
// their keyrings, and its preferences: sources.list, sources.list.d with
// one-line (.list) and deb822-style (.sources) files, trusted.gpg(.d), the
// keyrings that sources name, preferences(.d). What it cannot make use of is
// in the Notes; the error is one of reading.
func ReadSources(root Root, architecture string) (*Sources, error) {
	r := &sourceReader{root: root, architecture: architecture, sources: &Sources{}}
	if err := r.run(); err != nil {
		return nil, fmt.Errorf("cannot read the image's APT sources: %w", err)
	}
	return r.sources, nil
}

type sourceReader struct {
	root         Root
	architecture string
	sources      *Sources
}

func (r *sourceReader) note(from, format string, args ...any) {
	r.sources.Notes = append(r.sources.Notes, Note{from, fmt.Sprintf(format, args...)})
}

func (r *sourceReader) run() error {
	if err := r.trusted(); err != nil {
		return err
	}
	if err := r.file(sourcesFile, parseOneLine); err != nil {
		return err
	}
	names, err := r.folder(sourcesFolder, ".list", ".sources")
	if err != nil {
		return err
	}
	for _, name := range names {
		parse := parseOneLine
		if strings.HasSuffix(name, ".sources") {
			parse = parseDeb822
		}
		if err := r.file(name, parse); err != nil {
			return err
		}
	}
	return r.preferences()
}

// file reads a file of sources; one that is not there has none.
func (r *sourceReader) file(name string, parse func(string, []byte) ([]entry, []Note)) error {
	data, err := r.root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, notes := parse(name, data)
	r.sources.Notes = append(r.sources.Notes, notes...)
	for _, e := range entries {
		list, notes := e.sources(r.architecture, r.sources.trusted, r.keyring)
		r.sources.List = append(r.sources.List, list...)
		r.sources.Notes = append(r.sources.Notes, notes...)
	}
	return nil
}

// folder gives the paths of the files of a folder that apt would read, in its
// order (apt.conf(5): alphanumeric characters, hyphens, underscores and
// periods in a name). A leading dot hides a file.
func (r *sourceReader) folder(dir string, endings ...string) ([]string, error) {
	names, err := r.root.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names = slices.Clone(names)
	slices.Sort(names)
	var paths []string
	for _, name := range names {
		ending := path.Ext(name)
		if !slices.Contains(endings, ending) || strings.HasPrefix(name, ".") {
			continue
		}
		if strings.ContainsFunc(name, func(c rune) bool { return !plainNameRune(c) }) {
			r.note(path.Join(dir, name), "apt does not read a file of this name, and so hatchery does not")
			continue
		}
		paths = append(paths, path.Join(dir, name))
	}
	return paths, nil
}

func plainNameRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c)
}

// trusted reads the keyrings that count for sources which name none.
func (r *sourceReader) trusted() error {
	names, err := r.folder(trustedFolder, ".gpg", ".asc")
	if err != nil {
		return err
	}
	for _, name := range append([]string{trustedFile}, names...) {
		k, why := r.keyring(name)
		switch {
		case k.Data != nil:
			r.sources.trusted = append(r.sources.trusted, k)
		case why != notThere:
			r.note(name, "%s: its keys do not count", why)
		}
	}
	return nil
}

// notThere is why a keyring cannot be used that does not exist.
const notThere = "it is not there"

// keyring reads a keyring. One that cannot be used has no data; why says so.
func (r *sourceReader) keyring(name string) (k Keyring, why string) {
	k.Name = name
	data, err := r.root.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return k, notThere
	case err != nil:
		return k, fmt.Sprintf("it cannot be read (%v)", err)
	}
	if why := unusableKeyring(data); why != "" {
		return k, why
	}
	k.Data = data
	return k, ""
}

// An entry is what a line or paragraph says, before it is looked at: sources
// of every URI and suite in it.
type entry struct {
	from       string
	types      []string
	uris       []string
	suites     []string
	components []string
	options    map[string]string // by the names that sources.list(5) has for one-line sources
	key        []byte            // embedded
}

// sources looks at an entry. What is not heeded is noted.
func (e *entry) sources(architecture string, trusted []Keyring, keyring func(string) (Keyring, string)) (sources []Source, notes []Note) {
	note := func(format string, args ...any) {
		notes = append(notes, Note{e.from, fmt.Sprintf(format, args...)})
	}
	deb := false
	for _, t := range e.types {
		switch t {
		case "deb":
			deb = true
		case "deb-src": // source packages are of no use here, and no loss
		default:
			note("sources of the type %q are not supported: this one is left out", t)
		}
	}
	if !deb {
		return nil, notes
	}
	template := Source{From: e.from}
	var none bool
	if template.Architectures, none = e.architectures(architecture); none {
		note("its options leave no packages for %s: it is left out", architecture)
		return nil, notes
	}
	if len(template.Architectures) > 0 && !slices.Contains(template.Architectures, architecture) {
		note("the source is for %s, and the image for %s: it is left out", strings.Join(template.Architectures, ", "), architecture)
		return nil, notes
	}
	if value, ok := e.options["trusted"]; ok {
		if is, ok := boolean(value); ok && is {
			note("the source is trusted=yes: nothing guards what comes from it, so hatchery leaves it out; have it signed, and name its key by signed-by")
		} else {
			note("the source is trusted=%s: apt does not install from it unasked, and hatchery leaves it out", value)
		}
		return nil, notes
	}
	for _, option := range []struct {
		name string
		into **bool
	}{{"check-valid-until", &template.CheckValidUntil}, {"check-date", &template.CheckDate}} {
		value, ok := e.options[option.name]
		if !ok {
			continue
		}
		if is, ok := boolean(value); ok {
			*option.into = &is
		} else {
			note("%s=%s is neither yes nor no, and is not heeded", option.name, value)
		}
	}
	switch value := e.options["by-hash"]; value {
	case "", "yes", "no", "force":
		template.ByHash = value
	default:
		note("by-hash=%s is none of yes, no and force, and is not heeded", value)
	}
	for _, name := range []string{"allow-insecure", "allow-weak", "allow-downgrade-to-insecure"} {
		if is, _ := boolean(e.options[name]); is {
			note("%s is not heeded: what no good signature guards is not used", name)
		}
	}
	for _, name := range []string{"valid-until-max", "valid-until-min", "date-max-future", "inrelease-path", "include", "exclude", "snapshot"} {
		if value, ok := e.options[name]; ok && value != "" {
			note("%s is not supported, and is not heeded", name)
		}
	}
	template.SignedBy = trusted
	e.signedBy(&template, keyring, note)
	if len(e.components) == 0 && slices.ContainsFunc(e.suites, func(s string) bool { return !strings.HasSuffix(s, "/") }) {
		note("no component is named, and the suite is no folder with a slash at its end: the source is left out")
		return nil, notes
	}
	for _, uri := range e.uris {
		uri = strings.ReplaceAll(uri, "$(ARCH)", architecture)
		if why := checkURI(uri); why != "" {
			note("%s: the source is left out", why)
			continue
		}
		for _, suite := range e.suites {
			s := template
			s.URI, s.Suite = strings.TrimRight(uri, "/"), strings.ReplaceAll(suite, "$(ARCH)", architecture)
			if slices.Contains(strings.Split(s.Suite, "/"), "..") {
				note("the suite %s leads out of the archive: the source is left out", s.Suite)
				continue
			}
			if s.flat() {
				if len(e.components) > 0 {
					note("the suite %s is a folder and has no components: %s are not heeded", suite, strings.Join(e.components, " "))
				}
			} else {
				s.Components = e.components
			}
			sources = append(sources, s)
		}
	}
	return sources, notes
}

// architectures are those that the entry is for; an empty list means any,
// unless there is none.
func (e *entry) architectures(native string) (list []string, none bool) {
	list = words(e.options["arch"])
	add, remove := words(e.options["arch+"]), words(e.options["arch-"])
	if len(list) == 0 {
		if len(remove) == 0 {
			return nil, false // more than all is all
		}
		list = []string{native}
	}
	list = append(list, add...)
	list = slices.DeleteFunc(list, func(a string) bool { return slices.Contains(remove, a) })
	return list, len(list) == 0
}

// signedBy reads the option of that name: paths of keyrings, and fingerprints
// of keys in them.
func (e *entry) signedBy(s *Source, keyring func(string) (Keyring, string), note func(string, ...any)) {
	if e.key != nil {
		s.SignedBy = []Keyring{{Name: e.from + " (Signed-By)", Data: e.key}}
		return
	}
	var rings []Keyring
	named := words(e.options["signed-by"])
	for _, name := range named {
		switch {
		case strings.HasPrefix(name, "/"):
			k, why := keyring(path.Clean(name))
			if why != "" {
				note("the keyring %s: %s: none of its keys counts", name, why)
			}
			rings = append(rings, k)
		case fingerprint(name) != "":
			s.Fingerprints = append(s.Fingerprints, fingerprint(name))
		default:
			note("signed-by names %q, which is neither the path of a keyring nor a fingerprint: no key counts for this source by it", name)
			s.SignedBy = []Keyring{} // and none of those that count for other sources
			return
		}
	}
	if len(rings) > 0 {
		s.SignedBy = rings
	}
}

// fingerprint gives a fingerprint as this package writes it; "" where the text
// is none. Those of version 4 have 40 digits, later ones 64.
func fingerprint(text string) string {
	digits, exact := strings.CutSuffix(text, "!")
	digits = strings.ToUpper(strings.TrimPrefix(digits, "0x"))
	if len(digits) != 40 && len(digits) != 64 || strings.Trim(digits, "0123456789ABCDEF") != "" {
		return ""
	}
	if exact {
		return digits + "!"
	}
	return digits
}

// checkURI says what is wrong with an archive's URI, and nothing of what may
// grant access in it.
func checkURI(text string) string {
	u, err := url.Parse(text)
	text = download.Shown(text)
	switch {
	case err != nil || u.Scheme == "":
		return fmt.Sprintf("%q is no URI", text)
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Sprintf("%s: archives are reached by http and https, and %s: is not supported", text, u.Scheme)
	case u.Host == "":
		return fmt.Sprintf("%q names no host", text)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Sprintf("%q has a query or a fragment", text)
	}
	return ""
}

// words splits a list at spaces and commas.
func words(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' || c == '\n' })
}

// boolean reads yes and no in any of apt's spellings.
func boolean(text string) (is, ok bool) {
	switch strings.ToLower(text) {
	case "yes", "true", "with", "on", "enable", "1":
		return true, true
	case "no", "false", "without", "off", "disable", "0":
		return false, true
	}
	return false, false
}

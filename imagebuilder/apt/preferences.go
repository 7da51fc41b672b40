package apt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hatchery/internal/deb822"
)

const (
	preferencesFile   = "/etc/apt/preferences"
	preferencesFolder = "/etc/apt/preferences.d"
)

// A Pin gives all packages of some indexes a priority (apt_preferences(5),
// the general form). The first one that fits an index is the one that counts.
type Pin struct {
	From     string // "/etc/apt/preferences:3"
	Kind     string // release, or origin: the host
	Match    string // "o=Raspbian,n=bookworm", "archive.example"
	Priority int
}

// preferences reads the image's pins. Those of single packages are noted: they
// are not supported.
func (r *sourceReader) preferences() error {
	names, err := r.root.ReadDir(preferencesFolder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names = slices.Clone(names)
	slices.Sort(names)
	files := []string{preferencesFile}
	for _, name := range names {
		// apt_preferences(5): "pref" or no extension.
		if ending := path.Ext(name); ending != "" && ending != ".pref" || strings.ContainsFunc(name, func(c rune) bool { return !plainNameRune(c) }) || strings.HasPrefix(name, ".") {
			continue
		}
		files = append(files, path.Join(preferencesFolder, name))
	}
	for _, name := range files {
		data, err := r.root.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		pins, notes := parsePreferences(name, data)
		r.sources.Pins = append(r.sources.Pins, pins...)
		r.sources.Notes = append(r.sources.Notes, notes...)
	}
	return nil
}

func parsePreferences(name string, data []byte) (pins []Pin, notes []Note) {
	in := deb822.NewReader(bytes.NewReader(data))
	for {
		p, err := in.Next()
		if errors.Is(err, io.EOF) {
			return pins, notes
		}
		if err != nil {
			from := name
			var syntax *deb822.SyntaxError
			if errors.As(err, &syntax) {
				from, err = fmt.Sprintf("%s:%d", name, syntax.Line), errors.New(syntax.Msg)
			}
			return pins, append(notes, Note{from, fmt.Sprintf("it is no preference: %v; it and what follows in this file are not heeded", err)})
		}
		from := fmt.Sprintf("%s:%d", name, p.Line)
		if p.Get("Package") == "" && p.Get("Pin") == "" && p.Get("Pin-Priority") == "" {
			continue // an Explanation alone
		}
		pin, err := parsePin(p)
		if err != nil {
			notes = append(notes, Note{from, err.Error() + ": it is not heeded"})
			continue
		}
		pin.From = from
		pins = append(pins, pin)
	}
}

func parsePin(p *deb822.Paragraph) (Pin, error) {
	packages := strings.Join(strings.Fields(p.Get("Package")), " ")
	kind, match, _ := strings.Cut(p.Get("Pin"), " ")
	pin := Pin{Kind: strings.ToLower(kind), Match: strings.TrimSpace(match)}
	if packages != "*" {
		return pin, fmt.Errorf("a pin of single packages (%s) is not supported", packages)
	}
	if pin.Kind != "release" && pin.Kind != "origin" {
		return pin, fmt.Errorf("a pin by %q is not supported; by release and by origin are", p.Get("Pin"))
	}
	var err error
	if pin.Priority, err = strconv.Atoi(p.Get("Pin-Priority")); err != nil {
		return pin, fmt.Errorf("its Pin-Priority %q is no number", p.Get("Pin-Priority"))
	}
	if pin.Priority == 0 {
		return pin, fmt.Errorf("its Pin-Priority is 0, which means nothing (apt_preferences(5))")
	}
	if pin.Kind == "release" {
		if _, err := releaseConditions(pin.Match); err != nil {
			return pin, err
		}
	} else {
		pin.Match = strings.Trim(pin.Match, `"`)
	}
	return pin, nil
}

// A condition is one part of a pin by release: a=stable.
type condition struct {
	key   byte // 0: archive or codename
	match func(string) bool
}

// releaseConditions reads what stands behind "release".
func releaseConditions(text string) ([]condition, error) {
	var all []condition
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		key, value, ok := strings.Cut(part, "=")
		c := condition{}
		switch {
		case part == "":
			continue
		case !ok && part[0] >= '0' && part[0] <= '9':
			c.key, value = 'v', part
		case !ok:
			value = part
		case len(key) == 1 && strings.Contains("acvolnb", key):
			c.key = key[0]
		default:
			return nil, fmt.Errorf("%q is no condition of a release (a=, c=, v=, o=, l=, n=, b=)", part)
		}
		var err error
		if c.match, err = pattern(value); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("its pin says nothing of the release")
	}
	return all, nil
}

// pattern makes a test of a value: itself, with wildcards as a shell has them,
// or /a regular expression/.
func pattern(value string) (func(string) bool, error) {
	if len(value) > 2 && value[0] == '/' && value[len(value)-1] == '/' {
		re, err := regexp.Compile("(?i)" + value[1:len(value)-1])
		if err != nil {
			return nil, fmt.Errorf("%s is no regular expression that is known here", value)
		}
		return re.MatchString, nil
	}
	if _, err := path.Match(value, ""); err != nil {
		return nil, fmt.Errorf("%q is no pattern", value)
	}
	return func(text string) bool {
		// A wildcard fits a slash as well: "testing/updates".
		ok, _ := path.Match(strings.ReplaceAll(value, "/", "\x00"), strings.ReplaceAll(text, "/", "\x00"))
		return ok
	}, nil
}

// fits says whether a pin is for an index.
func (p *Pin) fits(i *Index) bool {
	if p.Kind == "origin" {
		u, err := url.Parse(i.URI)
		if err != nil {
			return false
		}
		is, err := pattern(p.Match)
		return err == nil && is(u.Hostname())
	}
	conditions, err := releaseConditions(p.Match)
	if err != nil {
		return false
	}
	for _, c := range conditions {
		value := map[byte]string{'a': i.ReleaseSuite, 'c': i.Component, 'v': i.Version, 'o': i.Origin, 'l': i.Label, 'n': i.Codename, 'b': i.Architecture}[c.key]
		if c.key == 0 {
			if !c.match(i.ReleaseSuite) && !c.match(i.Codename) {
				return false
			}
			continue
		}
		if !c.match(value) {
			return false
		}
	}
	return true
}

// pinned is an index's priority.
func pinned(i *Index, pins []Pin, otherwise int) int {
	for n := range pins {
		if pins[n].fits(i) {
			return pins[n].Priority
		}
	}
	return otherwise
}

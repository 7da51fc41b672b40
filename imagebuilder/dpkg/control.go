package dpkg

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"hatchery/imagebuilder/deb"
)

// A candidate is a package that is to be unpacked: its control file in the
// form in which it goes into the status file, and what else control.tar has.
type candidate struct {
	record
	files map[string]deb.ControlFile
}

// relationFields are those that dpkg writes anew, in its own form.
var relationFields = []string{fieldReplaces, fieldProvides, fieldDepends, fieldPreDepends, "Recommends", "Suggests", fieldBreaks, fieldConflicts, "Enhances"}

// newCandidate reads a package's control information.
func newCandidate(control *deb.Control) (*candidate, error) {
	c := &candidate{files: map[string]deb.ControlFile{}}
	for _, f := range control.Files {
		// dpkg keeps nothing with a dot in its name (src/main/unpack.c, pkg_infodb_update).
		if !strings.Contains(f.Name, ".") && f.Name != "control" && f.Name != "list" {
			c.files[f.Name] = f
		}
	}
	count := 0
	err := readStanzas(string(control.Raw), func(s *stanza) error {
		if count++; count > 1 {
			return &lineError{s.line, "a second paragraph"}
		}
		return c.take(s)
	})
	if err == nil && count == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("its file control: %w", err)
	}
	return c, nil
}

// take reads the fields as dpkg does (lib/dpkg/fields.c).
func (c *candidate) take(s *stanza) error {
	for _, f := range s.fields {
		wrong := func(format string, args ...any) error {
			return &lineError{f.line, fmt.Sprintf(format, args...)}
		}
		name := canonicalName(f.name)
		switch {
		case contains([]string{"Status", "Config-Version", "Triggers-Pending", "Triggers-Awaited"}, name):
			return wrong("%s is dpkg's own field, which no package has", f.name)
		case contains([]string{"Recommended", "Optional", "Class", "Revision", "Package-Revision", "Package_Revision"}, name):
			return wrong("%s is a field of before 1996, which is not known here", f.name)
		case contains(inStatus, name):
			continue
		case contains(relationFields, name):
			groups, err := parseRelations(name, f.value)
			if err != nil {
				return wrong("%v", err)
			}
			f.value = formatRelations(groups)
		case name == "Essential", name == "Protected":
			switch strings.ToLower(f.value) {
			case "yes":
				f.value = "yes"
			case "no", "":
				continue
			default:
				return wrong("%s is %.20q, neither yes nor no", name, f.value)
			}
		case name == "Multi-Arch":
			f.value = strings.ToLower(f.value)
			switch f.value {
			case "no", "":
				continue
			case "same", "foreign", "allowed":
				c.same = f.value == "same"
			default:
				return wrong("%s is %.20q, which it cannot be", name, f.value)
			}
		case name == "Priority":
			if lower := strings.ToLower(f.value); contains([]string{"required", "important", "standard", "optional", "extra"}, lower) {
				f.value = lower
			}
		case name == "Package":
			c.name = strings.ToLower(f.value)
			if !validName(c.name) {
				return wrong("%.60q cannot be a package", f.value)
			}
		case name == "Architecture":
			c.arch = f.value
		case name == "Version":
			version, err := canonicalVersion(f.value)
			if err != nil {
				return wrong("%v", err)
			}
			c.version, f.value = version, version
		}
		f.name = name
		c.fields = append(c.fields, f)
	}
	for _, field := range []struct{ name, value string }{{"Package", c.name}, {"Version", c.version}, {"Architecture", c.arch}} {
		if field.value == "" {
			return &lineError{s.line, "it has no field " + field.name}
		}
	}
	if !validArchitecture(c.arch) {
		return &lineError{s.line, fmt.Sprintf("%.60q cannot be an architecture", c.arch)}
	}
	return nil
}

// canonicalName is a field's name as dpkg writes it, if it knows it.
func canonicalName(name string) string {
	for _, list := range [][]string{statusOrder, inStatus} {
		for _, known := range list {
			if strings.EqualFold(known, name) {
				return known
			}
		}
	}
	return name
}

// source gives the source package's name and version.
func (c *candidate) source() (name, version string) {
	name, rest, _ := strings.Cut(c.get("Source"), " ")
	if name == "" {
		name = c.name
	}
	version = strings.Trim(rest, "() ")
	if version == "" {
		version = c.version
	}
	return name, version
}

// installedSize is what the package says that it takes, in bytes; 0 where it
// says nothing that makes sense.
func (c *candidate) installedSize() int64 {
	kib, err := strconv.ParseInt(c.get("Installed-Size"), 10, 64)
	if err != nil || kib < 0 || kib > 1<<40 {
		return 0
	}
	return kib << 10
}

// Space estimates how many bytes of a file system a package takes once it is
// unpacked: what it says itself (Debian Policy, 5.6.20), what dpkg keeps of it,
// and what the file system needs to keep them in.
func Space(control *deb.Control) int64 {
	const block = 4096
	size := int64(block) // its list
	if kib, err := strconv.ParseInt(control.Paragraph.Get("Installed-Size"), 10, 64); err == nil && kib > 0 && kib < 1<<40 {
		size += kib << 10
	}
	for _, f := range control.Files {
		size += (int64(len(f.Content)) + block - 1) / block * block
		if f.Name == "md5sums" {
			size += int64(len(f.Content)) // the list has much the same paths, in info and in memory
		}
	}
	return size + size/16 + 16*block
}

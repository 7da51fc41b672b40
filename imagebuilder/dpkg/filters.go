package dpkg

import (
	"io/fs"
	"path"
	"slices"
	"strings"

	"hatchery/imagebuilder/deb"
)

const (
	configFile = "/etc/dpkg/dpkg.cfg"
	configDir  = "/etc/dpkg/dpkg.cfg.d"
	maxConfig  = 1 << 20
)

// A filter is a path-exclude or path-include of dpkg's configuration: what an
// image leaves out of packages, manuals and translations mostly.
type filter struct {
	pattern string // without its first slash
	include bool
}

// readFilters reads them from dpkg's configuration, of which nothing else
// matters here (lib/dpkg/options.c: the files of the folder by name, those of
// letters, digits, - and _ only, then the main one).
func (db *database) readFilters() error {
	entries, err := db.root.ReadDir(configDir)
	if err != nil && !missing(err) {
		return err
	}
	var files []string
	for _, e := range entries {
		if strings.Trim(e.Name, alphanumeric+"-_") == "" {
			files = append(files, path.Join(configDir, e.Name))
		}
	}
	slices.Sort(files)
	for _, name := range append(files, configFile) {
		text, err := db.readText(name, maxConfig)
		if missing(err) {
			continue
		}
		if err != nil {
			return err
		}
		db.filters = append(db.filters, parseFilters(text)...)
	}
	return nil
}

func parseFilters(text string) []filter {
	var list []filter
	for line := range strings.Lines(text) {
		line = strings.Trim(line, blanks+"\n")
		at := strings.IndexAny(line, "= \t")
		if at < 0 || line[0] == '#' {
			continue
		}
		name := strings.TrimPrefix(line[:at], "--")
		if name != "path-exclude" && name != "path-include" {
			continue
		}
		value := strings.Trim(strings.TrimLeft(line[at:], blanks+"="), blanks)
		if len(value) >= 2 && value[0] == value[len(value)-1] && strings.ContainsAny(value[:1], `"'`) {
			value = value[1 : len(value)-1]
		}
		list = append(list, filter{pattern: strings.TrimLeft(value, "/"), include: name == "path-include"})
	}
	return list
}

// skips says whether a file of a package is left out (src/main/filters.c).
func (db *database) skips(e *deb.Entry) bool {
	if len(db.filters) == 0 {
		return false
	}
	name := strings.TrimPrefix(listName(e.Path), "/")
	skip := false
	for _, f := range db.filters { // the last one that matches wins
		if match(f.pattern, name) {
			skip = !f.include
		}
	}
	if !skip || e.Mode&(fs.ModeDir|fs.ModeSymlink) == 0 || e.HardLink {
		return skip
	}
	// A folder stays where something in it may be wanted.
	for _, f := range db.filters {
		if !f.include {
			continue
		}
		fixed := f.pattern
		if at := strings.IndexAny(fixed, `*?[\`); at >= 0 {
			fixed = fixed[:at]
		}
		if strings.HasPrefix(name, strings.TrimRight(fixed, "/")) {
			return false
		}
	}
	return true
}

// match is fnmatch(3) without flags: a star stands for slashes too.
func match(pattern, name string) bool {
	// Where the last star was, and how much of the name it has swallowed.
	starPattern, starName, starred := "", "", false
	for {
		if pattern != "" && pattern[0] == '*' {
			pattern = pattern[1:]
			starPattern, starName, starred = pattern, name, true
			continue
		}
		if name == "" && pattern == "" {
			return true
		}
		if name != "" {
			if rest, ok := matchOne(pattern, name[0]); ok {
				pattern, name = rest, name[1:]
				continue
			}
		}
		if !starred || starName == "" {
			return false
		}
		starName = starName[1:]
		pattern, name = starPattern, starName
	}
}

// matchOne matches one character, and gives the pattern behind it.
func matchOne(pattern string, c byte) (rest string, ok bool) {
	if pattern == "" {
		return "", false
	}
	switch pattern[0] {
	case '?':
		return pattern[1:], true
	case '\\':
		if len(pattern) > 1 {
			pattern = pattern[1:]
		}
	case '[':
		if rest, in, ok := matchClass(pattern[1:], c); ok {
			return rest, in
		}
	}
	return pattern[1:], pattern[0] == c
}

// matchClass matches a bracket expression, [ already read; not ok is one that
// does not end, whose [ is a plain character.
func matchClass(pattern string, c byte) (rest string, in, ok bool) {
	i, negated := 0, false
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		i, negated = i+1, true
	}
	for first := true; i < len(pattern); first = false {
		if pattern[i] == ']' && !first {
			return pattern[i+1:], in != negated, true
		}
		if pattern[i] == '\\' && i+1 < len(pattern) {
			i++
		}
		low, high := pattern[i], pattern[i]
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			high = pattern[i+2]
			i += 2
		}
		in = in || low <= c && c <= high
		i++
	}
	return "", false, false
}

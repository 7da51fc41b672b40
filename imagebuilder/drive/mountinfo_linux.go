package drive

import (
	"path"
	"strings"
)

// A mounted is one line of /proc/self/mountinfo, proc_pid_mountinfo(5).
type mounted struct {
	id     string
	parent string // the mount that it lies on
	number string // major:minor; 0:n for file systems that are on no single device
	place  string
	kind   string
	source string
	super  string // options of the file system, separated by commas
}

// parseMountinfo gives the mounts in the order in which they were made. Lines
// that are no mount's are left out.
func parseMountinfo(text string) []mounted {
	var all []mounted
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fields, rest := strings.Split(before, " "), strings.Split(after, " ")
		if !found || len(fields) < 6 || len(rest) < 2 || !isNumber(fields[2]) {
			continue
		}
		all = append(all, mounted{
			id: fields[0], parent: fields[1], number: fields[2], place: unescape(fields[4]),
			kind: unescape(rest[0]), source: unescape(rest[1]), super: strings.Join(rest[2:], " "),
		})
	}
	return all
}

// layers are the folders that an overlay is made of. Its options escape commas
// and the colons between lower folders by a backslash (fs/overlayfs/params.c).
func (m mounted) layers() []string {
	if m.kind != "overlay" {
		return nil
	}
	var all []string
	for _, option := range split(unescape(m.super), ',') {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir":
			for _, dir := range split(value, ':') {
				if dir = strings.ReplaceAll(dir, `\`, ""); strings.HasPrefix(dir, "/") {
					all = append(all, path.Clean(dir))
				}
			}
		}
	}
	return all
}

// split splits at a byte that no backslash escapes.
func split(text string, at byte) []string {
	var all []string
	start := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case at:
			all, start = append(all, text[start:i]), i+1
		}
	}
	return append(all, text[start:])
}

// liesIn says whether a path is a place or below it.
func liesIn(name, place string) bool {
	return place == "/" || name == place || strings.HasPrefix(name, place+"/")
}

// holding is the mount that a path lies on, other than a mount itself: the
// latest one at the longest place.
func holding(all []mounted, name string, but mounted) (found mounted, ok bool) {
	for _, m := range all {
		if m != but && liesIn(name, m.place) && (!ok || len(m.place) >= len(found.place)) {
			found, ok = m, true
		}
	}
	return found, ok
}

// over is a mount that hides another one, if there is one: it lies on its root,
// or on that of a mount below, or at a folder above its place.
func over(all []mounted, m mounted) (found mounted, ok bool) {
	came := "" // the mount by which the way up led here
	for range all {
		var up mounted
		above := false
		for _, other := range all {
			switch {
			case other.id == m.id || other.id == came:
			case other.id == m.parent:
				up, above = other, true
			case other.parent == m.id && other.place == m.place:
				return other, true
			case other.parent == m.parent && other.place != m.place && liesIn(m.place, other.place):
				return other, true
			}
		}
		if !above {
			break
		}
		came, m = m.id, up
	}
	return mounted{}, false
}

// isNumber says whether text is a device's major:minor.
func isNumber(text string) bool {
	major, minor, found := strings.Cut(text, ":")
	digits := func(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
	return found && digits(major) && digits(minor)
}

// parseSwaps gives what /proc/swaps names, partitions and files, proc_swaps(5).
func parseSwaps(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		name, _, found := strings.Cut(line, " ")
		if tab, _, cut := strings.Cut(name, "\t"); cut {
			name, found = tab, true
		}
		if found && strings.HasPrefix(name, "/") {
			all = append(all, unescape(name))
		}
	}
	return all
}

// unescape decodes the kernel's \ooo (fs/seq_file.c, mangle_path).
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			a, b, c := text[i+1]-'0', text[i+2]-'0', text[i+3]-'0'
			if a <= 3 && b <= 7 && c <= 7 {
				out.WriteByte(a<<6 | b<<3 | c)
				i += 3
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

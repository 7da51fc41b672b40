package drive

import "strings"

// A mounted is one line of /proc/self/mountinfo, proc_pid_mountinfo(5).
type mounted struct {
	number string // major:minor; 0:n for file systems that are on no single device
	place  string
	kind   string
	source string
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
		all = append(all, mounted{number: fields[2], place: unescape(fields[4]), kind: unescape(rest[0]), source: unescape(rest[1])})
	}
	return all
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

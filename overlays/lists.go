package overlays

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// A modeLine is one line of a tree's modes file.
type modeLine struct {
	line     int
	path     string // relative to the tree, without a trailing slash
	dir      bool
	mode     fs.FileMode
	uid, gid uint32
	secret   bool
}

// parseModes reads a tree's modes file, whose lines are
//
//	etc/hatchery/identity/key.pem  0600 0 0 secret
//	etc/hatchery/identity/         0700 0 0
//
// path, mode in octal (set-user-ID, set-group-ID and sticky bits included),
// owner and group by number, and the word secret for content that must appear
// in no listing. A path that ends with a slash is a folder; it is made if it
// does not exist. A path with blanks is written as a Go string, "like this".
// Empty lines and those that start with # are skipped. A file that comes from
// a template is named without .tmpl.
func parseModes(from string, text []byte) ([]modeLine, []error) {
	var modes []modeLine
	seen := map[string]int{}
	errs := eachLine(from, text, func(number int, line string) error {
		name, rest, err := cutPath(line)
		if err != nil {
			return err
		}
		fields := strings.Fields(rest)
		m := modeLine{line: number}
		if n := len(fields); n == 4 && fields[3] == "secret" {
			m.secret = true
		} else if n != 3 {
			return fmt.Errorf("want a path, a mode, an owner, a group and perhaps the word secret, have %q", line)
		}
		if m.path, m.dir, err = treePath(name); err != nil {
			return err
		}
		if m.mode, err = parseMode(fields[0]); err != nil {
			return err
		}
		for i, id := range []*uint32{&m.uid, &m.gid} {
			// 2^32-1 means "leave alone" to chown.
			v, err := strconv.ParseUint(fields[1+i], 10, 32)
			if err != nil || v == 1<<32-1 {
				return fmt.Errorf("%q is no number of a user or group", fields[1+i])
			}
			*id = uint32(v)
		}
		if earlier := seen[m.path]; earlier != 0 {
			return fmt.Errorf("%s is in line %d already", m.path, earlier)
		}
		seen[m.path] = number
		modes = append(modes, m)
		return nil
	})
	return modes, errs
}

// A linkLine is one line of a tree's links file.
type linkLine struct {
	line         int
	path, target string
}

// parseLinks reads a tree's links file, whose lines are
//
//	etc/localtime -> /usr/share/zoneinfo/Europe/London
//
// where the link lies in the tree, and what it points to, which need not
// exist. Quoting, empty lines and comments are as in parseModes.
func parseLinks(from string, text []byte) ([]linkLine, []error) {
	var links []linkLine
	seen := map[string]int{}
	errs := eachLine(from, text, func(number int, line string) error {
		name, rest, err := cutPath(line)
		if err != nil {
			return err
		}
		arrow, target, err := cutPath(rest)
		if err != nil || arrow != "->" || target == "" {
			return fmt.Errorf("want a path, -> and a target, have %q", line)
		}
		target, after, err := cutPath(target)
		if err != nil {
			return err
		}
		if target == "" || after != "" {
			return fmt.Errorf("want one target, have %q", line)
		}
		l := linkLine{line: number, target: target}
		var dir bool
		if l.path, dir, err = treePath(name); err != nil {
			return err
		}
		if dir {
			return fmt.Errorf("%s: a link's path does not end with a slash", name)
		}
		if earlier := seen[l.path]; earlier != 0 {
			return fmt.Errorf("%s is in line %d already", l.path, earlier)
		}
		seen[l.path] = number
		links = append(links, l)
		return nil
	})
	return links, errs
}

// eachLine calls parse for every line that holds something, and gives the
// errors with file and line.
func eachLine(from string, text []byte, parse func(int, string) error) []error {
	var errs []error
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := parse(i+1, line); err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", from, i+1, err))
		}
	}
	return errs
}

// cutPath takes the first word off a line; one that starts with a double
// quote is a Go string.
func cutPath(line string) (word, rest string, err error) {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, `"`) {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return "", "", fmt.Errorf("no closing quote in %q", line)
		}
		word, err = strconv.Unquote(quoted)
		if err != nil {
			return "", "", fmt.Errorf("cannot read %s: %w", quoted, err)
		}
		return word, strings.TrimSpace(line[len(quoted):]), nil
	}
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		return line[:i], strings.TrimSpace(line[i:]), nil
	}
	return line, "", nil
}

// treePath checks a path of a list: relative, clean and inside of the tree.
func treePath(name string) (clean string, dir bool, err error) {
	clean, dir = strings.CutSuffix(name, "/")
	if !fs.ValidPath(clean) || clean == "." || path.Clean(clean) != clean || strings.ContainsAny(clean, "\n\x00") {
		return "", false, fmt.Errorf("%q is no path inside of the tree, which starts without a slash and has no . or .. among its parts", name)
	}
	return clean, dir, nil
}

// parseMode reads an octal mode.
func parseMode(s string) (fs.FileMode, error) {
	v, err := strconv.ParseUint(s, 8, 32)
	if err != nil || v > 0o7777 {
		return 0, fmt.Errorf("%q is no octal mode", s)
	}
	mode := fs.FileMode(v & 0o777)
	for _, bit := range []struct {
		unix uint64
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if v&bit.unix != 0 {
			mode |= bit.mode
		}
	}
	return mode, nil
}

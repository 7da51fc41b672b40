package dependency

import (
	"fmt"
	"slices"
	"strings"

	"hatchery/internal/deb822"
)

// A Relation is one "name:qualifier (operator version)" of a relationship
// field (Debian Policy 7.1).
type Relation struct {
	Name      string
	Qualifier string // "any", "native", an architecture, or ""
	Operator  string // <<, <=, =, >=, >> or ""
	Version   string
}

func (r Relation) String() string {
	s := r.Name
	if r.Qualifier != "" {
		s += ":" + r.Qualifier
	}
	if r.Operator != "" {
		s += " (" + r.Operator + " " + r.Version + ")"
	}
	return s
}

// accepts says whether a version is one of those that the relation names.
func (r Relation) accepts(version string) bool {
	return deb822.Admits(r.Operator, r.Version, version)
}

// ParseRelations parses a relationship field: groups of alternatives, each of
// which asks for one of them. Restrictions to architectures ("[armhf !arm64]")
// and build profiles ("<!nocheck>"), which source packages have, are decided:
// what is not for this architecture, or only for a profile, is left out.
func ParseRelations(field, architecture string) ([][]Relation, error) {
	var groups [][]Relation
	open := false
	err := eachRelation(field, architecture, func(r Relation, first bool) {
		if first || !open {
			groups = append(groups, nil)
			open = true
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], r)
	}, func() { open = false })
	return groups, err
}

// eachRelation calls each for every relation of a field; first says that it
// begins a group of alternatives as it is written. Where the first ones of a
// group are left out none of it is first, so closed is called at the end of
// each group.
func eachRelation(field, architecture string, each func(r Relation, first bool), closed func()) error {
	rest := field
	for {
		group, after, more := strings.Cut(rest, ",")
		if strings.Trim(group, " \t\n") != "" { // a stray comma is no harm, as dpkg has it
			first := true
			for {
				word, others, or := strings.Cut(group, "|")
				r, applies, err := parseRelation(word, architecture)
				if err != nil {
					return err
				}
				if applies {
					each(r, first)
				}
				first = false
				if !or {
					break
				}
				group = others
			}
			if closed != nil {
				closed()
			}
		}
		if !more {
			return nil
		}
		rest = after
	}
}

const blank = " \t\n\r"

// parseRelation parses one relation, and says whether it applies.
func parseRelation(word, architecture string) (r Relation, applies bool, err error) {
	text := strings.Trim(word, blank)
	wrong := func(what string) (Relation, bool, error) {
		return Relation{}, false, fmt.Errorf("%s in the relation %s", what, quote(word))
	}
	end := strings.IndexAny(text, blank+"([<")
	if end < 0 {
		end = len(text)
	}
	var qualified bool
	r.Name, r.Qualifier, qualified = strings.Cut(text[:end], ":")
	if !validName(r.Name) {
		return wrong("no valid name")
	}
	if qualified && !validQualifier(r.Qualifier) {
		return wrong("no valid architecture")
	}
	text = strings.TrimLeft(text[end:], blank)
	applies = true
	if strings.HasPrefix(text, "(") {
		inside, after, ok := strings.Cut(text[1:], ")")
		if !ok {
			return wrong("no closing parenthesis")
		}
		inside = strings.Trim(inside, blank)
		digits := strings.IndexFunc(inside, func(c rune) bool { return !strings.ContainsRune("<=>", c) })
		if digits < 0 {
			return wrong("no version")
		}
		switch op := inside[:digits]; op {
		case "<<", "<=", "=", ">=", ">>":
			r.Operator = op
		case "<", ">": // of old, and they include the version itself
			r.Operator = op + "="
		default:
			return wrong("no valid comparison")
		}
		r.Operator = intern(r.Operator)
		r.Version = strings.Trim(inside[digits:], blank)
		if r.Version == "" || strings.ContainsAny(r.Version, blank+"()<>=,|") {
			return wrong("no valid version")
		}
		text = strings.TrimLeft(after, blank)
	}
	if strings.HasPrefix(text, "[") {
		inside, after, ok := strings.Cut(text[1:], "]")
		if !ok {
			return wrong("no closing bracket")
		}
		applies = forArchitecture(inside, architecture)
		text = strings.TrimLeft(after, blank)
	}
	for profiles := false; strings.HasPrefix(text, "<"); {
		inside, after, ok := strings.Cut(text[1:], ">")
		if !ok {
			return wrong("no closing >")
		}
		// One of several lists must hold, and no profile is active.
		holds := true
		for _, p := range strings.Fields(inside) {
			holds = holds && strings.HasPrefix(p, "!")
		}
		profiles = profiles || holds
		text = strings.TrimLeft(after, blank)
		if !strings.HasPrefix(text, "<") {
			applies = applies && profiles
		}
	}
	if text != "" {
		return wrong("something behind the end")
	}
	return r, applies, nil
}

// intern gives the operators one place in memory each.
func intern(operator string) string {
	for _, known := range []string{"<<", "<=", "=", ">=", ">>"} {
		if operator == known {
			return known
		}
	}
	return operator
}

func forArchitecture(list, architecture string) bool {
	words := strings.Fields(list)
	for _, w := range words {
		if name, not := strings.CutPrefix(w, "!"); not && matchesArchitecture(name, architecture) {
			return false
		}
	}
	if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "!") }) {
		return true
	}
	return slices.ContainsFunc(words, func(w string) bool { return matchesArchitecture(w, architecture) })
}

// matchesArchitecture knows the wildcards that Linux's architectures have.
func matchesArchitecture(pattern, architecture string) bool {
	switch pattern {
	case architecture, "any", "linux-any":
		return true
	case "any-arm":
		return architecture == "armel" || architecture == "armhf"
	}
	return pattern == "any-"+architecture
}

// validName says whether a package may be called so. Policy 5.6.7 allows
// less, but apt's own and third parties' names have capitals and underscores.
func validName(name string) bool {
	if name == "" {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '+', c == '-', c == '.', c == '_':
			if i == 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func validQualifier(q string) bool {
	return q != "" && strings.Trim(q, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// quote quotes foreign text for a message, as much of it as helps.
func quote(s string) string {
	const most = 60
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}

package dpkg

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"hatchery/internal/deb822"
)

// The fields that relate packages to others.
const (
	fieldReplaces   = "Replaces"
	fieldProvides   = "Provides"
	fieldDepends    = "Depends"
	fieldPreDepends = "Pre-Depends"
	fieldBreaks     = "Breaks"
	fieldConflicts  = "Conflicts"
)

// A relation is one package that a dependency names: "libc6:any (>= 2.36)".
type relation struct {
	name, arch  string // arch "" where nothing is said
	op, version string // op is one of << <= = >= >>, or "" for any version
}

func (r relation) String() string {
	s := r.name
	if r.arch != "" {
		s += ":" + r.arch
	}
	if r.op != "" {
		s += " (" + r.op + " " + r.version + ")"
	}
	return s
}

// admits says whether a version is one of those that are meant.
func (r relation) admits(version string) bool {
	return deb822.Admits(r.op, r.version, version)
}

// parseRelations reads the value of a field such as Depends: groups that must
// all hold, of alternatives of which one must (lib/dpkg/fields.c,
// f_dependency).
func parseRelations(name, value string) ([][]relation, error) {
	if value == "" {
		return nil, nil
	}
	single := name == fieldConflicts || name == fieldBreaks || name == fieldProvides || name == fieldReplaces
	var groups [][]relation
	for _, group := range strings.Split(value, ",") {
		var alternatives []relation
		for _, text := range strings.Split(group, "|") {
			r, err := parseRelation(text)
			if err != nil {
				return nil, fmt.Errorf("the field %s: %w", name, err)
			}
			alternatives = append(alternatives, r)
		}
		if single && len(alternatives) > 1 {
			return nil, fmt.Errorf("the field %s: %.60q has alternatives, which there cannot be", name, strings.TrimSpace(group))
		}
		groups = append(groups, alternatives)
	}
	return groups, nil
}

func parseRelation(text string) (relation, error) {
	const space = blanks + "\n"
	wrong := func(what string) (relation, error) {
		return relation{}, fmt.Errorf("%.60q is no relation to a package: %s", strings.Trim(text, space), what)
	}
	rest := strings.Trim(text, space)
	end := strings.IndexAny(rest, space+"(")
	if end < 0 {
		end = len(rest)
	}
	var r relation
	var qualified bool
	r.name, r.arch, qualified = strings.Cut(rest[:end], ":")
	// dpkg takes names in capitals, and makes them small.
	r.name = strings.ToLower(r.name)
	switch {
	case !validName(r.name):
		return wrong("its name cannot be")
	case qualified && !validArchitecture(r.arch):
		return wrong("its architecture cannot be")
	}
	rest = strings.TrimLeft(rest[end:], space)
	if rest == "" {
		return r, nil
	}
	if rest[0] != '(' || rest[len(rest)-1] != ')' {
		return wrong("it does not end with a version in brackets")
	}
	rest = strings.Trim(rest[1:len(rest)-1], space)
	op := rest[:len(rest)-len(strings.TrimLeft(rest, "<>="))]
	switch op {
	case "<<", "<=", "=", ">=", ">>":
		r.op = op
	case "<", ">": // as they were before 1996, and as dpkg still takes them
		r.op = op + "="
	case "":
		r.op = "="
	default:
		return wrong("its comparison cannot be")
	}
	version, err := canonicalVersion(rest[len(op):])
	if err != nil {
		return wrong(err.Error())
	}
	r.version = version
	return r, nil
}

// formatRelations writes what parseRelations read as dpkg does
// (lib/dpkg/dump.c, w_dependency).
func formatRelations(groups [][]relation) string {
	var b strings.Builder
	for i, group := range groups {
		if i > 0 {
			b.WriteString(", ")
		}
		for j, r := range group {
			if j > 0 {
				b.WriteString(" | ")
			}
			b.WriteString(r.String())
		}
	}
	return b.String()
}

// canonicalVersion writes a version as dpkg does: an epoch of 0 only where the
// rest has a colon (lib/dpkg/parsehelp.c, parseversion, varbufversion).
func canonicalVersion(text string) (string, error) {
	text = strings.Trim(text, " \t\n")
	epoch, rest, found := strings.Cut(text, ":")
	number := 0
	if found {
		var err error
		if number, err = strconv.Atoi(epoch); err != nil || number < 0 || number > math.MaxInt32 || epoch[0] == '+' {
			return "", fmt.Errorf("the epoch of version %.60q is no number", text)
		}
	} else {
		rest = text
	}
	upstream, revision, hyphen := rest, "", false
	if at := strings.LastIndexByte(rest, '-'); at >= 0 {
		upstream, revision, hyphen = rest[:at], rest[at+1:], true
	}
	switch {
	case upstream == "" || hyphen && revision == "":
		return "", fmt.Errorf("%.60q is no version", text)
	case upstream[0] < '0' || upstream[0] > '9':
		return "", fmt.Errorf("the version %.60q does not begin with a digit", text)
	case strings.Trim(upstream, alphanumeric+".-+~:") != "" || strings.Trim(revision, alphanumeric+".+~") != "":
		return "", fmt.Errorf("the version %.60q has characters that no version has", text)
	}
	if number != 0 || strings.Contains(rest, ":") {
		return strconv.Itoa(number) + ":" + rest, nil
	}
	return rest, nil
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// validName says what can be a package's name (pkg_name_is_illegal). It can be
// a file's.
func validName(name string) bool {
	return name != "" && len(name) <= 200 && strings.IndexByte(alphanumeric, name[0]) >= 0 && strings.Trim(name, alphanumeric+"-+._") == ""
}

// validArchitecture says what can be an architecture's (dpkg_arch_name_is_illegal).
func validArchitecture(name string) bool {
	return name != "" && len(name) <= 50 && strings.IndexByte(alphanumeric, name[0]) >= 0 && strings.Trim(name, alphanumeric+"-") == ""
}

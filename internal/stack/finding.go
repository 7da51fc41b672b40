package stack

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Finding is something about one place of a stack file.
type Finding struct {
	File    string
	Line    int    // from 1; 0 where it is about the file as a whole
	Column  int    // from 1
	Path    string // the key: services.web.deploy.replicas; "" where it is no key's
	Message string // what is wrong, and what to do
	Warning bool   // the stack can be run all the same
}

// String writes the finding as compilers do, so that editors find the place:
// web.yml:12:5: services.web.build: …
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Warning {
		b.WriteString("warning: ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// Errors is everything that is wrong with a stack file, in the order of the
// file, warnings among it.
type Errors struct {
	Findings []Finding

	cause error // where the file could not be read at all
}

// Error has a line for each finding.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the reason why the file could not be read, so that
// errors.Is(err, fs.ErrNotExist) holds for one that is not there.
func (e *Errors) Unwrap() error { return e.cause }

// sorted gives findings in the order of the file, each once.
func sorted(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(findings)
}

// broken says whether there is one that is more than a warning.
func broken(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return !f.Warning })
}

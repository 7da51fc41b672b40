package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is something about one place of a cluster.yaml.
type Problem struct {
	File    string
	Line    int    // from 1; 0 where the problem is the file's as a whole
	Column  int    // in characters, from 1
	Path    string // the key: slots.p1.hostname; "" where it is no key's
	Message string // what is wrong, and what to do

	// Pending says that the file as such is right: it lacks, or names, what
	// may still come. That is an image that is not there yet, and the keys to
	// log in with.
	Pending bool
}

// String writes the problem as compilers do, so that editors find the place:
// cluster.yaml:12:5: slots.p9x: …
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Errors is everything that is wrong with a cluster.yaml, in the order of the
// file.
type Errors struct {
	Problems []Problem

	cause error // where the file could not be read at all
	rest  *Cluster
}

// Error has one line for each problem.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the reason why the file could not be read, so that
// errors.Is(err, fs.ErrNotExist) holds for a file that is not there.
func (e *Errors) Unwrap() error { return e.cause }

// Rest is what could be read of the file all the same, for whoever judges the files
// that it names: what is wrong is missing in it. It is nil where nothing could be.
func (e *Errors) Rest() *Cluster { return e.rest }

func sortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

package dependency

import "strings"

// The fields that a version keeps as text, one behind the other with a
// newline between.
const (
	fieldVersion = iota
	fieldSource
	fieldFilename
	fieldPreDepends
	fieldDepends
	fieldConflicts
	fieldBreaks
	fieldRecommends
	fieldSuggests
	fieldProvides
	fieldCount
)

// A recordWriter puts a version's text together.
type recordWriter struct{ buf []byte }

// add adds the next field. Of a value of several lines the newlines become spaces.
func (w *recordWriter) add(value string) {
	for i := range len(value) {
		c := value[i]
		if c == '\n' {
			c = ' '
		}
		w.buf = append(w.buf, c)
	}
	w.buf = append(w.buf, '\n')
}

func (w *recordWriter) take() string {
	s := string(w.buf)
	w.buf = w.buf[:0]
	return s
}

// field gives one of the fields of a version.
func (v *version) field(n int) string {
	text := v.text
	for range n {
		_, text, _ = strings.Cut(text, "\n")
	}
	text, _, _ = strings.Cut(text, "\n")
	return text
}

// Kinds of relations, in the order in which APT goes through them.
type kind uint8

const (
	preDepends kind = iota
	depends
	conflicts
	breaks
	recommends
	suggests
)

func (k kind) negative() bool { return k == conflicts || k == breaks }

// critical says whether a package is broken where the relation does not hold.
func (k kind) critical() bool { return k <= breaks }

// verb is how a chain tells it.
func (k kind) verb() string {
	return [...]string{"needs", "needs", "conflicts with", "breaks", "recommends", "suggests"}[k]
}

// A clause is one relation of a version: alternatives, or for a negative one
// what it excludes (that has no alternatives: each is a clause of its own).
type clause struct {
	kind  kind
	atoms []atom
}

func (c *clause) String() string {
	words := make([]string, len(c.atoms))
	for i := range c.atoms {
		words[i] = c.atoms[i].String()
	}
	return strings.Join(words, " | ")
}

// An atom is a Relation whose name is looked up.
type atom struct {
	Relation
	name int32
}

// relations are a version's, parsed.
type relations struct{ clauses []clause }

var relationFields = [...]struct {
	field int
	kind  kind
}{
	{fieldPreDepends, preDepends}, {fieldDepends, depends}, {fieldConflicts, conflicts},
	{fieldBreaks, breaks}, {fieldRecommends, recommends}, {fieldSuggests, suggests},
}

// relations parses a version's relations when they are first asked for. That
// they are well-formed was seen when they were read.
func (u *Universe) relations(v int32) []clause {
	r := &u.versions[v]
	if r.parsed != nil {
		return r.parsed.clauses
	}
	parsed := &relations{}
	architecture := u.archs[u.packages[r.pkg].arch]
	for _, f := range relationFields {
		groups, _ := ParseRelations(r.field(f.field), architecture)
		for _, group := range groups {
			c := clause{kind: f.kind}
			for _, relation := range group {
				c.atoms = append(c.atoms, atom{relation, u.nameOf(relation.Name)})
			}
			if !f.kind.negative() {
				parsed.clauses = append(parsed.clauses, c)
				continue
			}
			for _, a := range c.atoms {
				parsed.clauses = append(parsed.clauses, clause{f.kind, []atom{a}})
			}
		}
	}
	r.parsed = parsed
	return parsed.clauses
}

package dependency

import (
	"fmt"
	"slices"
	"strings"
)

// explain tells why a rule cannot be kept, of which every answer is known
// without any decision: the relations that this follows from, beginning with what is wanted.
func (s *search) explain(conflict int) *failure {
	e := &explanation{s: s, told: map[int]bool{}, of: map[int32][]int{}, excluded: map[int32][]int{}}
	for _, n := range s.core(conflict) {
		r := &s.rules[n]
		if r.want {
			continue
		}
		e.of[r.owner] = append(e.of[r.owner], n)
		if r.other != none {
			e.excluded[r.other] = append(e.excluded[r.other], n)
		}
	}
	f := &failure{packages: map[int32]bool{}}
	for _, v := range s.t.wanted {
		e.tell(v, 0)
	}
	// What the chain does not lead to: what is installed and is in the way.
	var rest []int32
	for v := range e.of {
		rest = append(rest, v)
	}
	slices.Sort(rest)
	for _, v := range rest {
		e.tell(v, 0)
	}
	f.chain = e.lines
	for _, rules := range e.of {
		for _, n := range rules {
			r := &s.rules[n]
			f.packages[s.u.versions[r.owner].pkg] = true
			if r.relation == nil {
				continue
			}
			for _, a := range r.relation.atoms {
				for p := s.u.names[a.name].packages; p != none; p = s.u.packages[p].next {
					f.packages[p] = true
				}
				for i := s.u.names[a.name].providers; i != none; i = s.u.provides[i].next {
					f.packages[s.u.versions[s.u.provides[i].owner].pkg] = true
				}
			}
		}
	}
	return f
}

// core gives the rules that are no others' conclusions, of those that a
// contradiction follows from, in the order in which they were made.
func (s *search) core(conflict int) []int {
	var core []int
	seen := map[int]bool{}
	queue := []int{conflict}
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if seen[n] {
			continue
		}
		seen[n] = true
		r := &s.rules[n]
		queue = append(queue, r.learned...)
		if len(r.learned) == 0 {
			core = append(core, n)
		}
		for _, l := range r.literals {
			if q := s.question(l.about()); q.known && q.level == 0 && q.reason >= 0 && q.reason != n {
				queue = append(queue, q.reason)
			}
		}
	}
	slices.Sort(core)
	return core
}

// An explanation tells the rules of a contradiction as a tree.
type explanation struct {
	s        *search
	of       map[int32][]int // the rules of a version
	excluded map[int32][]int // the rules that exclude a version
	told     map[int]bool
	lines    []string
}

func (e *explanation) line(depth int, format string, args ...any) {
	e.lines = append(e.lines, strings.Repeat("  ", depth)+fmt.Sprintf(format, args...))
}

// tell tells what is the matter with a version.
func (e *explanation) tell(v int32, depth int) {
	u := e.s.u
	for _, n := range e.of[v] {
		if e.told[n] {
			continue
		}
		e.told[n] = true
		r := &e.s.rules[n]
		who := u.titleVersion(r.owner)
		switch {
		case r.relation == nil || r.relation.kind.negative():
			e.line(depth, "%s", e.excludes(r))
			e.tell(r.other, depth+1)
		default:
			targets := e.targets(r)
			if len(targets) == 0 {
				e.line(depth, "%s needs %s, but %s", who, r.relation, e.why(r))
				continue
			}
			e.line(depth, "%s needs %s", who, r.relation)
			for _, target := range targets {
				e.tell(target, depth+1)
				// What is installed has no other place in the tree.
				for _, m := range e.excluded[target] {
					if owner := e.s.rules[m].owner; e.installed(owner) && !e.told[m] {
						e.told[m] = true
						e.line(depth+1, "%s", e.excludes(&e.s.rules[m]))
					}
				}
			}
		}
	}
}

func (e *explanation) installed(v int32) bool {
	return v == e.s.t.current(e.s.u.versions[v].pkg)
}

// excludes tells a rule that two versions cannot be there both.
func (e *explanation) excludes(r *rule) string {
	u := e.s.u
	who, other := u.titleVersion(r.owner), u.titleVersion(r.other)
	if e.installed(r.owner) {
		who += " of the base image"
	}
	var said string
	switch cl := r.relation; {
	case cl == nil:
		if e.installed(r.other) {
			other += " of the base image"
		}
		if e.installed(r.owner) {
			who, other = other, who
		}
		return fmt.Sprintf("%s and %s cannot be there both: they are for different architectures, and not of one version that is Multi-Arch: same", who, other)
	case u.packages[u.versions[r.other].pkg].name != cl.atoms[0].name:
		said = fmt.Sprintf("%s %s %s, which %s provides", who, cl.kind.verb(), cl, other)
	case cl.atoms[0].Operator == "":
		said = fmt.Sprintf("%s %s %s", who, cl.kind.verb(), other)
	default:
		said = fmt.Sprintf("%s %s %s, as %s is", who, cl.kind.verb(), cl, other)
	}
	switch {
	case e.installed(r.other):
		return said + ": that is in the base image, and nothing there is removed"
	case e.installed(r.owner):
		return said + ", and nothing there is removed"
	case slices.Contains(e.s.t.wanted, r.other):
		return said + ": that is wanted, too"
	}
	return said
}

// targets are the versions that could have done for a rule.
func (e *explanation) targets(r *rule) []int32 {
	var targets []int32
	for _, l := range r.literals {
		p := l.about()
		v := e.s.t.current(p)
		if l.answer() {
			v = e.s.t.candidates[p]
		}
		if v != none && v != r.owner && !slices.Contains(targets, v) {
			targets = append(targets, v)
		}
	}
	return targets
}

// why says why nothing does for a relation.
func (e *explanation) why(r *rule) string {
	u := e.s.u
	var reasons []string
	for _, a := range r.relation.atoms {
		reason := e.lacking(&a, u.packages[u.versions[r.owner].pkg].arch)
		if !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
	}
	return strings.Join(reasons, ", and ")
}

// lacking says why nothing does for an atom.
func (e *explanation) lacking(a *atom, arch uint16) string {
	u, t := e.s.u, e.s.t
	p := u.find(a.name, arch)
	if p == none {
		p = u.names[a.name].packages
	}
	if p == none {
		var provided []string
		for i := u.names[a.name].providers; i != none; i = u.provides[i].next {
			entry := &u.provides[i]
			said := u.titleVersion(entry.owner)
			if entry.version != "" {
				said += " as " + entry.version
			}
			if !slices.Contains(provided, said) {
				provided = append(provided, said)
			}
		}
		if len(provided) == 0 {
			return fmt.Sprintf("no source has %s", a.Name)
		}
		slices.Sort(provided)
		return fmt.Sprintf("%s is provided by %s only", a.Name, list(provided, "and"))
	}
	entry := &u.packages[p]
	title := u.title(p)
	var could []string
	for v := entry.versions; v != none; v = u.versions[v].next {
		if v != entry.current && v != t.candidates[p] && a.accepts(u.versionText(v)) {
			could = append(could, u.versionText(v))
		}
	}
	switch {
	case entry.half != "" && entry.current == none && t.candidates[p] == none:
		return t.absent(p)
	case t.candidates[p] != none && a.accepts(u.versionText(t.candidates[p])):
		if a.Qualifier == "any" {
			return fmt.Sprintf("%s is not Multi-Arch: allowed", u.titleVersion(t.candidates[p]))
		}
		return fmt.Sprintf("%s is for another architecture", u.titleVersion(t.candidates[p]))
	case entry.current != none && t.candidates[p] == entry.current:
		have := fmt.Sprintf("the base image has %s", u.titleVersion(entry.current))
		switch {
		case len(could) > 0 && entry.held:
			return have + " on hold"
		case len(could) > 0:
			return have
		}
		return have + ", and no source has another that would do"
	case t.candidates[p] == none:
		return t.absent(p)
	case len(could) > 0:
		return fmt.Sprintf("%s is to be %s, not %s", title, u.versionText(t.candidates[p]), list(could, "or"))
	}
	return fmt.Sprintf("the sources have %s only", list(e.titled(p), "and"))
}

func (e *explanation) titled(p int32) []string {
	var versions []string
	for v := e.s.u.packages[p].versions; v != none; v = e.s.u.versions[v].next {
		versions = append(versions, e.s.u.titleVersion(v))
	}
	return versions
}

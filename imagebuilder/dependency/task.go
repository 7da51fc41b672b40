package dependency

import (
	"cmp"
	"slices"
)

// A task is one set of wanted packages, and for each package the one version
// of it that may be installed.
type task struct {
	u          *Universe
	o          Options
	wanted     []int32 // versions
	candidates []int32 // by package: a version, or none
}

func (t *task) candidate(p int32) int32 { return t.candidates[p] }
func (t *task) current(p int32) int32   { return t.u.packages[p].current }

// important says whether relations of a kind are cared for.
func (t *task) important(k kind) bool {
	return k.critical() || k == recommends && t.o.Recommends
}

// order is a package's place in the order in which names were first
// mentioned: by the indexes, then by the status file.
func (t *task) order(p int32) int32 {
	n := t.u.packages[p].name
	if at := t.u.names[n].order; at != none {
		return at
	}
	return t.u.mentioned + n
}

// solutions are the versions that a relation of owner names, of each package
// the one that in picks, the ones to be taken first in front: what is
// installed, in whatever version, then alternative by alternative, and of
// those who provide one the one that APT prefers.
func (t *task) solutions(owner int32, cl *clause, in func(p int32) int32, protected func(p int32) bool) []int32 {
	u := t.u
	var old, fresh []int32
	for i := range cl.atoms {
		a := &cl.atoms[i]
		var of []int32
		u.targets(owner, cl.kind, a, in, func(v int32) { of = append(of, v) })
		slices.SortStableFunc(of, func(x, y int32) int { return t.prefer(x, y, a.name, protected) })
		for _, v := range of {
			if t.current(u.versions[v].pkg) != none {
				old = append(old, v)
			} else {
				fresh = append(fresh, v)
			}
		}
	}
	return slices.Compact(append(old, fresh...))
}

// prefer orders two that can both stand for a name as APT does.
func (t *task) prefer(a, b, name int32, protected func(p int32) bool) int {
	u := t.u
	va, vb := &u.versions[a], &u.versions[b]
	pa, pb := va.pkg, vb.pkg
	for _, c := range []int{
		first(protected(pa), protected(pb)),
		first(va.multiArch == multiSame && t.family(pa), vb.multiArch == multiSame && t.family(pb)),
		first(t.current(pa) != none, t.current(pb) != none),
		first(u.packages[pa].name == name, u.packages[pb].name == name),
		first(va.essential, vb.essential),
		first(va.important, vb.important),
		cmp.Compare(u.packages[pa].arch, u.packages[pb].arch),
		cmp.Compare(va.priority, vb.priority),
	} {
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(t.order(pb), t.order(pa))
}

// first orders what is so before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// family says whether a package is installed for any architecture.
func (t *task) family(p int32) bool {
	for q := t.u.names[t.u.packages[p].name].packages; q != none; q = t.u.packages[q].next {
		if t.current(q) != none {
			return true
		}
	}
	return false
}

// whole says whether everything that in picks goes together: nothing that is
// new lacks anything, and nothing that is there already is any the worse.
func (t *task) whole(in func(p int32) int32) bool {
	for p := range t.candidates {
		if v := in(int32(p)); v != none && !t.content(v, in) {
			return false
		}
	}
	return true
}

func (t *task) content(v int32, in func(p int32) int32) bool {
	u := t.u
	p := u.versions[v].pkg
	old := v == t.current(p)
	relations := u.relations(v)
	for i := range relations {
		cl := &relations[i]
		if !cl.kind.critical() || u.met(v, cl, in) != cl.kind.negative() {
			continue
		}
		// What is broken in the image as it is, is not ours.
		if old && u.met(v, cl, t.current) == cl.kind.negative() {
			continue
		}
		return false
	}
	fine := true
	u.siblings(v, in, func(other int32) {
		fine = fine && old && other == t.current(u.versions[other].pkg)
	})
	return fine
}

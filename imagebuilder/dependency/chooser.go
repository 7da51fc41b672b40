package dependency

import (
	"cmp"
	"slices"
)

// deepest is how long a chain of dependencies may get.
const deepest = 3000

// A chooser decides as APT's classic resolver does when it marks a package
// for installation: it goes down the dependencies, depth first, and of
// alternatives takes the first that works out. What was taken is not
// reconsidered when something later conflicts with it. Packages that nothing
// but the wanted ones can stand on are protected: they are never given up for another one's sake.
//
// In one thing it differs: nothing installed is ever removed.
type chooser struct {
	task  *task
	u     *Universe
	state []choice // by package
}

// A choice is how it stands with a package.
type choice struct {
	install   int32 // what will be there in the end, or none
	candidate int32 // what could be installed, or none
	marked    bool  // for installation
	protected bool
	automatic bool
}

func newChooser(t *task) *chooser {
	c := &chooser{task: t, u: t.u, state: make([]choice, len(t.candidates))}
	for p := range c.state {
		c.state[p] = choice{install: t.u.packages[p].current, candidate: t.candidates[p]}
	}
	return c
}

func (c *chooser) installed(p int32) int32 { return c.state[p].install }
func (c *chooser) current(p int32) int32   { return c.u.packages[p].current }
func (c *chooser) candidate(p int32) int32 { return c.state[p].candidate }

// run marks all that is wanted, and says whether nothing is broken then.
func (c *chooser) run() bool {
	wanted := slices.Clone(c.task.wanted)
	for _, v := range wanted {
		p := c.u.versions[v].pkg
		c.state[p].candidate = v
		c.mark(p, false, 0, true)
		c.state[p].protected = true
	}
	slices.SortFunc(wanted, func(a, b int32) int {
		return cmp.Compare(c.task.order(c.u.versions[a].pkg), c.task.order(c.u.versions[b].pkg))
	})
	for _, v := range wanted {
		c.mark(c.u.versions[v].pkg, true, 0, true)
	}
	for _, v := range wanted {
		if c.state[c.u.versions[v].pkg].install != v {
			return false
		}
	}
	return c.task.whole(c.installed)
}

// holds says whether a relation of a version holds with what will be there.
func (c *chooser) holds(owner int32, cl *clause) bool {
	return c.u.met(owner, cl, c.installed) != cl.kind.negative()
}

// met says whether any of what a relation names is there.
func (u *Universe) met(owner int32, cl *clause, in func(p int32) int32) bool {
	met := false
	for i := range cl.atoms {
		u.targets(owner, cl.kind, &cl.atoms[i], in, func(int32) { met = true })
		if met {
			return true
		}
	}
	return false
}

// broken says whether a package that will be there lacks something.
func (c *chooser) broken(p int32) bool {
	v := c.state[p].install
	if v == none {
		return false
	}
	relations := c.u.relations(v)
	for i := range relations {
		if c.task.important(relations[i].kind) && !c.holds(v, &relations[i]) {
			return true
		}
	}
	return false
}

// mayChange says whether a package may be marked, or its mark be taken away.
func (c *chooser) mayChange(p int32, mark bool, depth int, user bool) bool {
	s := &c.state[p]
	switch {
	case depth > deepest:
		return false
	case user || s.marked == mark:
		return true
	case s.protected:
		return false
	}
	return !mark || !c.u.packages[p].held
}

// mark marks a package for installation, with what it depends on where deep
// says so. User says that it was asked for by name.
func (c *chooser) mark(p int32, deep bool, depth int, user bool) bool {
	s := &c.state[p]
	current := c.current(p)
	if s.protected && !s.marked && s.candidate != none && s.candidate == current {
		// Only to protect what it stands on.
	} else if !c.mayChange(p, true, depth, user) {
		return false
	}
	if s.candidate == none {
		return false
	}
	if !s.protected && !c.broken(p) && (s.candidate == current || s.marked) {
		return true
	}
	if !user && !c.inStep(p) || deep && !c.possible(p) {
		return false
	}
	if user {
		c.take(p, user)
	}
	early := !s.protected && !user // a failure ends it
	failed := false
	var needs, excluded []*clause
	var upgrade []int32
	if deep {
		needs, excluded = c.open(s.candidate)
		var ok bool
		if upgrade, ok = c.giveWay(s.candidate, excluded, depth, s.protected, user); !ok {
			if early {
				return false
			}
			failed = true
		}
		upgrade = c.dependents(p, upgrade)
	}
	if !user {
		c.take(p, user)
	}
	if !deep {
		return !failed
	}
	protected := s.protected
	s.protected = true // while its dependencies are dealt with
	ok := c.deepen(p, needs, upgrade, depth, protected, user, early)
	c.state[p].protected = protected
	if !ok && early {
		c.discard(p)
	}
	return ok && !failed
}

// deepen deals with what follows from a package that was just marked.
func (c *chooser) deepen(p int32, needs []*clause, upgrade []int32, depth int, protected, user, early bool) bool {
	ok := true
	c.upgradeSource(p, depth)
	for _, other := range upgrade {
		if !c.state[other].marked && !c.mark(other, true, depth+1, false) {
			ok = false // it would have to go
			if !protected && !user {
				break
			}
		}
	}
	if !ok && early {
		return false
	}
	return c.satisfy(p, needs, depth, protected, user) && ok
}

// take sets the mark.
func (c *chooser) take(p int32, user bool) {
	s := &c.state[p]
	s.install = s.candidate
	s.marked = s.candidate != c.current(p)
	if user {
		s.automatic = false
	} else if c.current(p) == none {
		s.automatic = true
	}
}

// keep takes the mark away.
func (c *chooser) keep(p int32, depth int) bool {
	if !c.mayChange(p, false, depth, false) {
		return false
	}
	c.state[p].marked = false
	c.state[p].install = c.current(p)
	return true
}

// discard takes the mark away, and sees to it that it is not tried again.
func (c *chooser) discard(p int32) {
	s := &c.state[p]
	s.marked = false
	s.install = c.current(p)
	s.candidate = s.install
}

// inStep says whether a Multi-Arch: same package would have the version of its siblings.
func (c *chooser) inStep(p int32) bool {
	s := &c.state[p]
	if s.marked && s.install == s.candidate || s.candidate == c.current(p) {
		return true
	}
	step := true
	c.u.siblings(s.candidate, func(q int32) int32 {
		if c.current(q) == none {
			return none
		}
		return c.candidate(q)
	}, func(int32) { step = false })
	return step
}

// possible says whether each dependency of a package can be had, as far as
// can be seen without going deeper. If not, it is no candidate any more.
func (c *chooser) possible(p int32) bool {
	s := &c.state[p]
	if s.candidate == c.current(p) {
		return true
	}
	relations := c.u.relations(s.candidate)
	for i := range relations {
		cl := &relations[i]
		if !cl.kind.critical() || cl.kind.negative() || c.holds(s.candidate, cl) || c.u.met(s.candidate, cl, c.task.candidate) {
			continue
		}
		if !s.protected {
			s.candidate = c.current(p)
			s.marked = false
		}
		return false
	}
	return true
}

// open gives the relations of a version that something is to be done about.
func (c *chooser) open(v int32) (needs, excluded []*clause) {
	protected := c.state[c.u.versions[v].pkg].protected
	relations := c.u.relations(v)
	for i := range relations {
		cl := &relations[i]
		switch {
		case !c.task.important(cl.kind), c.holds(v, cl) && !protected:
		case cl.kind.negative():
			excluded = append(excluded, cl)
		default:
			needs = append(needs, cl)
		}
	}
	return needs, excluded
}

// giveWay sees to it that what a version excludes is not there: what is
// installed is to be upgraded, if that helps; what is marked loses its mark.
func (c *chooser) giveWay(v int32, excluded []*clause, depth int, protected, user bool) (upgrade []int32, ok bool) {
	ok = true
	var bad []int32
	for _, cl := range excluded {
		for _, target := range c.solutions(v, cl, c.candidate) {
			p := c.u.versions[target].pkg
			s := &c.state[p]
			switch {
			case s.candidate != target:
			case target == c.current(p): // it would have to be removed
				ok = false
			case s.marked && !c.keep(p, depth):
				ok = false
			case protected:
				s.candidate = s.install
				s.protected = s.protected || c.current(p) == none
			default:
				bad = append(bad, p)
			}
			if !ok && !protected && !user {
				return upgrade, false
			}
		}
		for _, target := range c.solutions(v, cl, c.current) {
			p := c.u.versions[target].pkg
			switch candidate := c.candidate(p); {
			case candidate == target: // see above
			case candidate != none && !slices.Contains(bad, p):
				upgrade = append(upgrade, p)
			default:
				ok = false
			}
			if !ok && !protected && !user {
				return upgrade, false
			}
		}
	}
	return upgrade, ok
}

// dependents adds the installed packages that need the installed version of p
// and are not content with its candidate.
func (c *chooser) dependents(p int32, upgrade []int32) []int32 {
	current, candidate := c.current(p), c.candidate(p)
	if current == none || candidate == current {
		return upgrade
	}
	for _, q := range c.u.installed {
		if c.state[q].marked || slices.Contains(upgrade, q) {
			continue
		}
		relations := c.u.relations(c.current(q))
		for i := range relations {
			if relations[i].kind.negative() || !c.task.important(relations[i].kind) {
				continue
			}
			for _, a := range relations[i].atoms {
				if a.name == c.u.packages[p].name && a.accepts(c.u.versionText(current)) && !a.accepts(c.u.versionText(candidate)) && !slices.Contains(upgrade, q) {
					upgrade = append(upgrade, q)
				}
			}
		}
	}
	return upgrade
}

// upgradeSource upgrades what is installed of the same source package, so
// that its parts stay together.
func (c *chooser) upgradeSource(p int32, depth int) {
	if !c.task.o.Upgrade || c.candidate(p) == c.current(p) {
		return
	}
	name, version := c.u.source(c.candidate(p))
	var others []int32
	for _, q := range c.u.installed {
		v := c.candidate(q)
		if q == p || v == none || v == c.current(q) || c.state[q].install == v {
			continue
		}
		if n, ver := c.u.source(v); n == name && ver == version {
			others = append(others, q)
		}
	}
	slices.SortFunc(others, func(a, b int32) int { return cmp.Compare(c.task.order(a), c.task.order(b)) })
	for _, deep := range []bool{false, true} {
		for _, q := range others {
			c.mark(q, deep, depth+1, false)
		}
	}
}

// satisfy finds something for each of the needs.
func (c *chooser) satisfy(p int32, needs []*clause, depth int, protected, user bool) bool {
	ok := true
	owner := c.state[p].install
	for _, cl := range needs {
		critical := cl.kind.critical()
		if c.holds(owner, cl) {
			if !protected || !critical {
				continue
			}
			// What it has no choice about is protected, too.
			if only := c.only(owner, cl); only != none && !c.state[only].protected {
				c.state[only].protected = true
				ok = c.mark(only, true, depth+1, false) && ok
			}
			continue
		}
		if !critical && c.current(p) != none && !c.newlyRecommended(p, cl) {
			continue
		}
		found := false
		solutions := c.solutions(owner, cl, c.candidate)
		for _, v := range solutions {
			q := c.u.versions[v].pkg
			if c.state[q].candidate != v {
				continue
			}
			if protected && critical && len(solutions) == 1 {
				if !c.mark(q, false, depth+1, false) {
					continue
				}
				c.state[q].protected = true
			}
			if c.mark(q, true, depth+1, false) {
				found = true
				break
			}
		}
		if !found && critical {
			ok = false
			if !protected && !user {
				break
			}
		}
	}
	return ok
}

// newlyRecommended says whether a recommendation of a package that is
// upgraded is one that its installed version did not have, or had fulfilled.
func (c *chooser) newlyRecommended(p int32, cl *clause) bool {
	current := c.current(p)
	known := false
	relations := c.u.relations(current)
	for i := range relations {
		old := &relations[i]
		if old.kind != recommends || !slices.ContainsFunc(old.atoms, func(a atom) bool { return a.name == cl.atoms[0].name }) {
			continue
		}
		known = true
		if c.u.met(current, old, c.current) {
			return true
		}
	}
	return !known
}

// only is the one package that can stand for a relation, or none.
func (c *chooser) only(owner int32, cl *clause) int32 {
	only := none
	count := 0
	for _, in := range []func(int32) int32{c.candidate, c.current} {
		for i := range cl.atoms {
			c.u.targets(owner, cl.kind, &cl.atoms[i], in, func(v int32) {
				if p := c.u.versions[v].pkg; only == none || v != only {
					if s := &c.state[p]; s.protected && !s.marked && c.current(p) == none {
						return
					}
					only = v
					count++
				}
			})
		}
	}
	if count != 1 {
		return none
	}
	return c.u.versions[only].pkg
}

// solutions are the versions that a relation names, the ones to be taken
// first in front: what is installed, then alternative by alternative.
func (c *chooser) solutions(owner int32, cl *clause, in func(p int32) int32) []int32 {
	all := c.task.solutions(owner, cl, in, func(p int32) bool { return c.state[p].protected })
	if cl.kind.negative() {
		return all
	}
	return slices.DeleteFunc(all, func(v int32) bool {
		p := c.u.versions[v].pkg
		s := &c.state[p]
		return s.protected && !s.marked && c.current(p) == none
	})
}

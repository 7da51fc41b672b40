package dependency

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Options say how to choose.
type Options struct {
	Recommends bool // install what is recommended, too
	// Upgrade allows to replace what is installed by newer versions.
	Upgrade bool
	// Prefer names versions, by package, that are taken rather than the
	// sources' best where that is possible: those of a lock file.
	Prefer map[string]string
}

// A Solution is what is to be installed.
type Solution struct {
	// Install has what is new and what is upgraded, in an order in which dpkg
	// can unpack and configure it: what a package depends on comes before it,
	// unless they depend on each other.
	Install []Planned
	// Present are the wanted packages that are installed already.
	Present []Planned
}

// A Planned is one package to be installed.
type Planned struct {
	Candidate
	// Automatic says that it is new and was not asked for by name, and so to be marked
	// as automatically installed. An upgrade changes no mark.
	Automatic bool
	Replaces  string // the version that is installed, for an upgrade
}

// Resolve finds out what has to be installed so that the wanted packages are
// there and work. The error is an [*InputError] or [*UnknownPackageError] where the wants themselves are
// wrong, an [*UpgradeError] where it takes newer versions of what is
// installed and o does not allow that, and an [*UnsatisfiableError] where it cannot be done.
// Equal input gives equal solutions.
func (u *Universe) Resolve(ctx context.Context, wants []Want, o Options) (*Solution, error) {
	solution, err := u.resolve(ctx, wants, o)
	failed, unsatisfiable := err.(*failure)
	if !unsatisfiable {
		return solution, err
	}
	if !o.Upgrade {
		more := o
		more.Upgrade = true
		upgraded, err := u.resolve(ctx, wants, more)
		switch deeper, unsatisfiable := err.(*failure); {
		case err == nil:
			e := &UpgradeError{Wanted: titles(wants), Chain: failed.chain}
			for _, p := range upgraded.Install {
				if p.Replaces != "" {
					e.Upgrades = append(e.Upgrades, Upgrade{p.Name, p.Replaces, p.Version})
				}
			}
			return nil, e
		case unsatisfiable:
			failed = deeper
		default:
			return nil, err
		}
	}
	return nil, &UnsatisfiableError{Wanted: titles(wants), Chain: failed.chain}
}

func titles(wants []Want) []string {
	var names []string
	for _, w := range wants {
		names = append(names, w.String())
	}
	return names
}

// A failure is an unsatisfiable task, explained.
type failure struct {
	chain    []string
	packages map[int32]bool // whose versions have a part in it
}

func (f *failure) Error() string { return strings.Join(f.chain, "\n") }

// resolve keeps to the preferred versions as far as that goes.
func (u *Universe) resolve(ctx context.Context, wants []Want, o Options) (*Solution, error) {
	dropped := map[int32]bool{}
	for {
		t, preferred, err := u.newTask(wants, o, dropped)
		if err != nil {
			return nil, err
		}
		installed, err := t.solve(ctx)
		failed, unsatisfiable := err.(*failure)
		if err == nil {
			return t.solution(installed), nil
		}
		if !unsatisfiable || len(preferred) == 0 {
			return nil, err
		}
		// The ones that stand in the way are given up, else all.
		before := len(dropped)
		for _, p := range preferred {
			if failed.packages[p] {
				dropped[p] = true
			}
		}
		if len(dropped) == before {
			for _, p := range preferred {
				dropped[p] = true
			}
		}
	}
}

// newTask looks the wants up and picks each package's candidate. It also says
// for which packages a preferred version was picked.
func (u *Universe) newTask(wants []Want, o Options, dropped map[int32]bool) (*task, []int32, error) {
	t := &task{u: u, o: o, candidates: make([]int32, len(u.packages))}
	for p := range t.candidates {
		t.candidates[p] = t.pick(int32(p))
	}
	var preferred []int32
	for n, version := range o.Prefer {
		p, _ := u.lookUp(n)
		if p == none || dropped[p] {
			continue
		}
		v := u.versionOf(p, version)
		if v == none || u.versions[v].origin == nil || v == t.candidates[p] || t.candidates[p] != none && t.candidates[p] == u.packages[p].current {
			continue
		}
		t.candidates[p] = v
		preferred = append(preferred, p)
	}
	slices.Sort(preferred)
	for _, w := range wants {
		v, err := t.want(w)
		if err != nil {
			return nil, nil, err
		}
		p := u.versions[v].pkg
		for _, other := range t.wanted {
			if u.versions[other].pkg == p && other != v {
				return nil, nil, &InputError{fmt.Errorf("%s is wanted in two versions, %s and %s", u.title(p), u.versionText(other), u.versionText(v))}
			}
		}
		if !slices.Contains(t.wanted, v) {
			t.wanted = append(t.wanted, v)
		}
		t.candidates[p] = v
	}
	return t, preferred, nil
}

// pick is the version of a package that may be installed.
func (t *task) pick(p int32) int32 {
	entry := &t.u.packages[p]
	if !t.o.Upgrade {
		if entry.current != none {
			return entry.current
		}
		if entry.half != "" {
			return none
		}
	}
	if entry.held && entry.current != none {
		return entry.current
	}
	return t.u.best(p)
}

// lookUp finds a package by "name" or "name:architecture".
func (u *Universe) lookUp(title string) (p int32, known bool) {
	bare, arch, qualified := strings.Cut(title, ":")
	n, ok := u.byName[bare]
	if !ok {
		return none, false
	}
	number := 0
	if qualified && arch != "native" {
		if number = slices.Index(u.archs, arch); number < 0 {
			return none, true
		}
	}
	return u.find(n, uint16(number)), true
}

// want finds the version that a Want means.
func (t *task) want(w Want) (int32, error) {
	u := t.u
	p, known := u.lookUp(w.Name)
	if p == none || u.packages[p].versions == none && u.packages[p].half == "" {
		unknown := &UnknownPackageError{Name: w.Name, Version: w.Version}
		if !known {
			unknown.Near = u.near(w.Name)
			return none, unknown
		}
		// Something that packages provide.
		var of []int32
		for i := u.names[u.byName[bareName(w.Name)]].providers; i != none; i = u.provides[i].next {
			if v := u.provides[i].owner; t.candidates[u.versions[v].pkg] == v && !slices.Contains(of, v) {
				of = append(of, v)
			}
		}
		if len(of) == 1 && w.Version == "" {
			return of[0], nil
		}
		for _, v := range of {
			unknown.Providers = append(unknown.Providers, u.title(u.versions[v].pkg))
		}
		slices.Sort(unknown.Providers)
		if len(of) == 0 {
			unknown.Near = u.near(w.Name)
		}
		return none, unknown
	}
	if w.Version == "" {
		if v := t.candidates[p]; v != none {
			return v, nil
		}
		return none, &UnknownPackageError{Name: w.Name, Detail: t.absent(p)}
	}
	for v := u.packages[p].versions; v != none; v = u.versions[v].next {
		if u.versionText(v) != w.Version {
			continue
		}
		if v != u.packages[p].current {
			switch {
			case u.packages[p].current != none && !t.o.Upgrade:
				return none, &UpgradeError{
					Wanted:   []string{w.String()},
					Upgrades: []Upgrade{{u.title(p), u.versionText(u.packages[p].current), w.Version}},
					Chain:    []string{fmt.Sprintf("%s is wanted in version %s, and the base image has %s", u.title(p), w.Version, u.versionText(u.packages[p].current))},
				}
			case u.packages[p].held && u.packages[p].current != none:
				return none, &UnknownPackageError{Name: w.Name, Detail: fmt.Sprintf("the base image has %s on hold", u.titleVersion(u.packages[p].current))}
			}
		}
		return v, nil
	}
	return none, &UnknownPackageError{Name: w.Name, Version: w.Version, Versions: u.versionsOf(p)}
}

func bareName(title string) string {
	bare, _, _ := strings.Cut(title, ":")
	return bare
}

func (u *Universe) versionsOf(p int32) []string {
	var versions []string
	for v := u.packages[p].versions; v != none; v = u.versions[v].next {
		versions = append(versions, u.versionText(v))
	}
	return versions
}

// near gives the names of packages that are like one that is not there.
func (u *Universe) near(text string) []string {
	type like struct {
		name     string
		distance int
	}
	bare := bareName(text)
	var found []like
	for i := range u.names {
		n := &u.names[i]
		if n.packages == none && n.providers == none {
			continue
		}
		if d := distance(bare, n.text, 2); d <= min(2, len(bare)/3) {
			found = append(found, like{n.text, d})
		}
	}
	slices.SortFunc(found, func(a, b like) int {
		if a.distance != b.distance {
			return a.distance - b.distance
		}
		return strings.Compare(a.name, b.name)
	})
	var names []string
	for _, l := range found[:min(4, len(found))] {
		names = append(names, l.name)
	}
	return names
}

// distance is how many letters have to be added, taken away, changed or
// swapped with their neighbour to make one word of another; where it is above
// most, most+1.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		if slices.Min(row) > most {
			return most + 1
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], most+1)
}

// solve gives for each package the version that will be there.
func (t *task) solve(ctx context.Context) ([]choice, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := newChooser(t)
	if c.run() {
		t.sweep(c.state)
		return c.state, nil
	}
	state, err := newSearch(t).run(ctx)
	if err != nil {
		return nil, err
	}
	t.sweep(state)
	return state, nil
}

// sweep takes away what nothing has to do with: what was marked on a way that
// was given up later. As APT's automatic removal has it, whatever something
// installed needs, recommends or suggests stays.
func (t *task) sweep(state []choice) {
	u := t.u
	used := make([]bool, len(state))
	var queue []int32
	use := func(p int32) {
		if !used[p] {
			used[p] = true
			queue = append(queue, p)
		}
	}
	for p := range state {
		if s := &state[p]; s.install != none && (t.current(int32(p)) != none || !s.automatic) {
			use(int32(p))
		}
	}
	in := func(p int32) int32 { return state[p].install }
	for len(queue) > 0 {
		v := state[queue[0]].install
		queue = queue[1:]
		relations := u.relations(v)
		for i := range relations {
			if cl := &relations[i]; !cl.kind.negative() {
				for j := range cl.atoms {
					u.targets(v, cl.kind, &cl.atoms[j], in, func(v int32) { use(u.versions[v].pkg) })
				}
			}
		}
	}
	for p := range state {
		if !used[p] {
			state[p].install = none
		}
	}
}

// solution tells of each change.
func (t *task) solution(state []choice) *Solution {
	u := t.u
	s := &Solution{}
	var changed []int32
	for p := range state {
		v, current := state[p].install, u.packages[p].current
		if v != none && v != current {
			changed = append(changed, v)
		}
	}
	for _, v := range t.arrange(changed, func(p int32) int32 { return state[p].install }) {
		p := u.versions[v].pkg
		planned := Planned{Candidate: u.candidate(v), Replaces: u.packages[p].half}
		if current := u.packages[p].current; current != none {
			planned.Replaces = u.versionText(current)
		}
		planned.Automatic = state[p].automatic && planned.Replaces == ""
		s.Install = append(s.Install, planned)
	}
	for _, v := range t.wanted {
		if v == u.packages[u.versions[v].pkg].current {
			s.Present = append(s.Present, Planned{Candidate: u.candidate(v)})
		}
	}
	return s
}

// absent says why a package has no version that could be installed.
func (t *task) absent(p int32) string {
	u := t.u
	entry := &u.packages[p]
	switch {
	case entry.half != "" && !t.o.Upgrade:
		return fmt.Sprintf("the base image has %s %s only half-installed", u.title(p), entry.half)
	case entry.versions == none:
		return fmt.Sprintf("no source has %s", u.title(p))
	}
	var versions []string
	for v := entry.versions; v != none; v = u.versions[v].next {
		versions = append(versions, fmt.Sprintf("%s (%d)", u.versionText(v), u.priorityOf(v)))
	}
	return fmt.Sprintf("the priorities of its sources rule it out: %s", list(versions, "and"))
}

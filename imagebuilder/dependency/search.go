package dependency

import (
	"context"
	"slices"
)

// A search finds out which packages change so that everything holds, or that
// there is no such choice. It is conflict-driven clause learning, as SAT solvers
// do it: it decides, follows what that implies, and from each contradiction
// learns what not to decide again, so that it goes back to the decision that
// was wrong and not merely to the last one.
//
// For each package there is one question: does it change to its candidate, or
// does it stay as it is (absent, or as installed)? What does not change is no
// question. A rule is a list of answers of which one at least must come true:
// "not docker.io, or containerd", "not a, or not b". A version's rules are made
// when its package is first decided to change, so only what comes into question
// is ever looked at.
type search struct {
	t     *task
	u     *Universe
	about map[int32]*question
	rules []rule
	trail []literal // what is decided, in order
	head  int       // how much of it was followed
	marks []int     // where on the trail each level begins
	needs []int     // rules that ask for something, in the order to see to them
	soft  []int     // likewise, recommendations: of no consequence where they cannot be
}

// A literal says of a package that it changes (2p+1) or stays (2p).
type literal int32

func changes(p int32) literal           { return literal(2*p + 1) }
func stays(p int32) literal             { return literal(2 * p) }
func (l literal) not() literal          { return l ^ 1 }
func (l literal) about() (p int32)      { return int32(l >> 1) }
func (l literal) answer() (change bool) { return l&1 == 1 }

type question struct {
	known  bool
	answer bool
	level  int
	reason int   // the rule that it follows from, or -1 for a decision
	in     []int // the rules that ask it
	opened bool  // the rules of the candidate were made
}

// A rule and where it comes from: a relation, the user's want, or other rules.
type rule struct {
	literals []literal
	owner    int32 // the version whose relation it is; of a want, the wanted one
	relation *clause
	other    int32 // that is excluded, for a negative relation
	want     bool
	learned  []int // from which rules
}

func newSearch(t *task) *search {
	return &search{t: t, u: t.u, about: map[int32]*question{}}
}

func (s *search) question(p int32) *question {
	q := s.about[p]
	if q == nil {
		q = &question{reason: -1}
		s.about[p] = q
	}
	return q
}

// literalOf says what a version's being there means: fixed is true where it
// is there in any case.
func (s *search) literalOf(v int32) (l literal, fixed bool) {
	p := s.u.versions[v].pkg
	current, candidate := s.t.current(p), s.t.candidates[p]
	switch {
	case v != current:
		return changes(p), false
	case candidate == none || candidate == current:
		return 0, true
	}
	return stays(p), false
}

// run gives for each package what will be there.
func (s *search) run(ctx context.Context) ([]choice, error) {
	conflict := s.begin()
	for rounds := 0; ; rounds++ {
		if rounds%64 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		if conflict < 0 {
			conflict = s.follow()
		}
		switch {
		case conflict >= 0 && len(s.marks) == 0:
			return nil, s.explain(conflict)
		case conflict >= 0:
			conflict = s.learn(conflict)
		case !s.decide():
			return s.outcome(), nil
		}
	}
}

func (s *search) outcome() []choice {
	state := make([]choice, len(s.t.candidates))
	for p := range state {
		state[p] = choice{install: s.t.current(int32(p)), automatic: true}
		if q := s.about[int32(p)]; q != nil && q.known && q.answer {
			state[p].install = s.t.candidates[p]
			state[p].marked = true
		}
	}
	for _, v := range s.t.wanted {
		state[s.u.versions[v].pkg].automatic = false
	}
	return state
}

// begin makes the rules that hold without any decision: what is wanted, and
// what is installed. It gives a rule that cannot be kept, or -1.
func (s *search) begin() int {
	for _, p := range s.u.installed {
		v := s.t.current(p)
		relations := s.u.relations(v)
		for i := range relations {
			cl := &relations[i]
			if !cl.kind.critical() {
				continue
			}
			if !cl.kind.negative() && !s.u.met(v, cl, s.t.current) {
				continue // broken in the image as it is
			}
			if bad := s.require(v, cl); bad >= 0 {
				return bad
			}
		}
		if bad := s.apart(v); bad >= 0 {
			return bad
		}
	}
	for _, v := range s.t.wanted {
		l, fixed := s.literalOf(v)
		if fixed {
			continue
		}
		if bad := s.add(rule{literals: []literal{l}, owner: v, want: true}); bad >= 0 {
			return bad
		}
	}
	return -1
}

// require makes the rules of one relation of a version.
func (s *search) require(v int32, cl *clause) int {
	guard, fixed := s.literalOf(v)
	var from []literal
	if !fixed {
		from = []literal{guard.not()}
	}
	var targets []int32
	for _, in := range []func(int32) int32{s.t.candidate, s.t.current} {
		for _, target := range s.t.solutions(v, cl, in, func(int32) bool { return false }) {
			if !slices.Contains(targets, target) {
				targets = append(targets, target)
			}
		}
	}
	if cl.kind.negative() {
		for _, target := range targets {
			if bad := s.exclude(v, target, cl, from); bad >= 0 {
				return bad
			}
		}
		return -1
	}
	r := rule{literals: from, owner: v, relation: cl, other: none}
	for _, target := range targets {
		l, fixed := s.literalOf(target)
		if fixed {
			return -1 // it is there
		}
		r.literals = append(r.literals, l)
	}
	if !cl.kind.critical() {
		s.rules = append(s.rules, r)
		s.soft = append(s.soft, len(s.rules)-1)
		return -1
	}
	return s.add(r)
}

// exclude makes the rule that two versions cannot be there both.
func (s *search) exclude(v, target int32, cl *clause, from []literal) int {
	if v == s.t.current(s.u.versions[v].pkg) && target == s.t.current(s.u.versions[target].pkg) {
		return -1 // so it is in the image
	}
	r := rule{literals: slices.Clone(from), owner: v, relation: cl, other: target}
	l, fixed := s.literalOf(target)
	if !fixed {
		r.literals = append(r.literals, l.not())
	}
	return s.add(r)
}

// apart makes the rules between packages of one name and several architectures.
func (s *search) apart(v int32) int {
	guard, fixed := s.literalOf(v)
	var from []literal
	if !fixed {
		from = []literal{guard.not()}
	}
	for _, in := range []func(int32) int32{s.t.candidate, s.t.current} {
		bad := -1
		s.u.siblings(v, in, func(other int32) {
			if bad < 0 {
				bad = s.exclude(v, other, nil, from)
			}
		})
		if bad >= 0 {
			return bad
		}
	}
	return -1
}

// add takes a rule, and what follows from it as things stand. It gives the
// rule's number where it cannot be kept, else -1.
func (s *search) add(r rule) int {
	n := len(s.rules)
	s.rules = append(s.rules, r)
	for _, l := range r.literals {
		q := s.question(l.about())
		q.in = append(q.in, n)
	}
	if r.relation != nil && !r.relation.kind.negative() {
		s.needs = append(s.needs, n)
	}
	if !s.check(n) {
		return n
	}
	return -1
}

// check follows a rule of which one answer is left, and says whether it can
// be kept.
func (s *search) check(n int) bool {
	left, open := literal(-1), 0
	for _, l := range s.rules[n].literals {
		q := s.question(l.about())
		switch {
		case !q.known:
			if l != left {
				left, open = l, open+1
			}
		case q.answer == l.answer():
			return true
		}
	}
	if open == 1 {
		s.answer(left, n)
	}
	return open > 0
}

func (s *search) answer(l literal, reason int) {
	q := s.question(l.about())
	q.known, q.answer, q.level, q.reason = true, l.answer(), len(s.marks), reason
	s.trail = append(s.trail, l)
}

// follow follows everything that is decided. It gives a rule that cannot be
// kept, or -1.
func (s *search) follow() int {
	for ; s.head < len(s.trail); s.head++ {
		l := s.trail[s.head]
		q := s.question(l.about())
		if l.answer() && !q.opened {
			if bad := s.open(s.t.candidates[l.about()]); bad >= 0 {
				return bad // the rest of its rules is made another time
			}
			q.opened = true
		}
		for _, n := range q.in {
			if !s.check(n) {
				return n
			}
		}
	}
	return -1
}

// open makes the rules of a version that comes into question.
func (s *search) open(v int32) int {
	relations := s.u.relations(v)
	for i := range relations {
		if s.t.important(relations[i].kind) {
			if bad := s.require(v, &relations[i]); bad >= 0 {
				return bad
			}
		}
	}
	return s.apart(v)
}

// decide answers one question, and says whether there was one: first for what
// is needed, then for what is recommended. What nothing asks for stays as it is.
func (s *search) decide() bool {
	for _, rules := range [][]int{s.needs, s.soft} {
		for _, n := range rules {
			if l := s.unmet(n); l >= 0 {
				s.marks = append(s.marks, len(s.trail))
				s.answer(l, -1)
				return true
			}
		}
	}
	return false
}

// unmet gives the best answer to a rule that none has come true of yet; below
// 0 where one has, or none can.
func (s *search) unmet(n int) literal {
	best := literal(-1)
	for _, l := range s.rules[n].literals {
		q := s.question(l.about())
		switch {
		case q.known && q.answer == l.answer(), !q.known && !l.answer():
			return -1
		case !q.known && best < 0:
			best = l
		}
	}
	return best
}

// learn finds out which decision was wrong, goes back before it, and adds the
// rule that says so. What it gives is as with add.
func (s *search) learn(conflict int) int {
	level := 0
	for _, l := range s.rules[conflict].literals {
		level = max(level, s.question(l.about()).level)
	}
	if level < len(s.marks) {
		s.back(level)
		if level == 0 {
			return conflict
		}
	}
	learned := rule{owner: none, other: none, learned: []int{conflict}}
	seen := map[int32]bool{}
	here := 0 // how many answers of this level are to be looked into
	from := s.rules[conflict].literals
	back := 0
	at := len(s.trail) - 1
	for {
		for _, l := range from {
			p := l.about()
			q := s.question(p)
			if seen[p] || !q.known || q.answer == l.answer() {
				continue
			}
			seen[p] = true
			switch {
			case q.level == level:
				here++
			case q.level == 0:
				if q.reason >= 0 {
					learned.learned = append(learned.learned, q.reason)
				}
			default:
				learned.literals = append(learned.literals, l)
				back = max(back, q.level)
			}
		}
		for !seen[s.trail[at].about()] || s.question(s.trail[at].about()).level != level {
			at--
		}
		l := s.trail[at]
		at--
		here--
		if here == 0 {
			learned.literals = append(learned.literals, l.not())
			break
		}
		reason := s.question(l.about()).reason
		learned.learned = append(learned.learned, reason)
		from = s.rules[reason].literals
	}
	s.back(back)
	return s.add(learned)
}

// back forgets all that was decided above a level.
func (s *search) back(level int) {
	to := s.marks[level]
	for _, l := range s.trail[to:] {
		q := s.question(l.about())
		q.known, q.reason = false, -1
	}
	s.trail = s.trail[:to]
	s.marks = s.marks[:level]
	s.head = 0 // rules that came late may follow from what is left
}

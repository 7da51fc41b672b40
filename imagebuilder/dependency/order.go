package dependency

import (
	"cmp"
	"slices"
	"strings"
)

// arrange puts versions that are to be installed into an order in which dpkg
// can deal with them: each behind those that it depends on. Where some depend
// on each other, a Pre-Depends counts more than a Depends, and of equals
// what is wanted comes last, and else the name decides.
func (t *task) arrange(changed []int32, in func(p int32) int32) []int32 {
	u := t.u
	slices.SortFunc(changed, func(a, b int32) int {
		return cmp.Or(first(slices.Contains(t.wanted, a), slices.Contains(t.wanted, b)),
			strings.Compare(u.title(u.versions[a].pkg), u.title(u.versions[b].pkg)))
	})
	o := &arranger{
		number: map[int32]int{}, low: map[int32]int{}, stacked: map[int32]bool{},
		before: map[int32][]int32{}, strictly: map[int32][]int32{},
	}
	for _, v := range changed {
		relations := u.relations(v)
		for i := range relations {
			cl := &relations[i]
			if cl.kind != preDepends && cl.kind != depends {
				continue
			}
			for j := range cl.atoms {
				u.targets(v, cl.kind, &cl.atoms[j], in, func(other int32) {
					if other == v || other == u.packages[u.versions[other].pkg].current {
						return
					}
					if !slices.Contains(o.before[v], other) {
						o.before[v] = append(o.before[v], other)
					}
					if cl.kind == preDepends {
						o.strictly[v] = append(o.strictly[v], other)
					}
				})
			}
		}
	}
	for _, v := range changed {
		if o.number[v] == 0 {
			o.visit(v)
		}
	}
	return o.order
}

// An arranger finds the loops (Tarjan's strongly connected components), which
// come out in the right order, what is depended on first.
type arranger struct {
	before   map[int32][]int32 // what a version depends on
	strictly map[int32][]int32 // by Pre-Depends
	number   map[int32]int
	low      map[int32]int
	stack    []int32
	stacked  map[int32]bool
	order    []int32
}

func (o *arranger) visit(v int32) {
	o.number[v] = len(o.number) + 1
	o.low[v] = o.number[v]
	o.stack = append(o.stack, v)
	o.stacked[v] = true
	for _, w := range o.before[v] {
		if o.number[w] == 0 {
			o.visit(w)
			o.low[v] = min(o.low[v], o.low[w])
		} else if o.stacked[w] {
			o.low[v] = min(o.low[v], o.number[w])
		}
	}
	if o.low[v] < o.number[v] {
		return
	}
	at := slices.Index(o.stack, v)
	loop := slices.Clone(o.stack[at:])
	o.stack = o.stack[:at]
	for _, w := range loop {
		o.stacked[w] = false
	}
	o.unroll(loop)
}

// unroll orders what depends on each other. Some Depends must be broken for
// that, but no Pre-Depends; and whoever a Pre-Depends asks for is itself to
// be whole by then, so it comes early, behind its own dependencies.
func (o *arranger) unroll(loop []int32) {
	const underWay, done = 1, 2
	state := map[int32]int{}
	// strict says whether a Pre-Depends leads from v to something under way.
	var strict func(v int32, seen map[int32]bool) bool
	strict = func(v int32, seen map[int32]bool) bool {
		for _, w := range o.strictly[v] {
			if !slices.Contains(loop, w) || seen[w] {
				continue
			}
			seen[w] = true
			if state[w] == underWay || strict(w, seen) {
				return true
			}
		}
		return false
	}
	var visit func(v int32)
	visit = func(v int32) {
		state[v] = underWay
		for _, list := range [][]int32{o.strictly[v], o.before[v]} {
			for _, w := range list {
				if slices.Contains(loop, w) && state[w] == 0 && !strict(w, map[int32]bool{}) {
					visit(w)
				}
			}
		}
		state[v] = done
		o.order = append(o.order, v)
	}
	var early []int32
	for _, v := range loop {
		early = append(early, o.strictly[v]...)
	}
	for _, v := range append(early, loop...) {
		if slices.Contains(loop, v) && state[v] == 0 {
			visit(v)
		}
	}
}

package dependency

import (
	"slices"
	"strings"
)

// arrange puts versions that are to be installed into an order in which dpkg
// can deal with them: each behind those that it depends on. Where some depend
// on each other, a Pre-Depends counts more than a Depends, and of equals the
// name decides.
func (t *task) arrange(changed []int32, in func(p int32) int32) []int32 {
	u := t.u
	slices.SortFunc(changed, func(a, b int32) int {
		return strings.Compare(u.title(u.versions[a].pkg), u.title(u.versions[b].pkg))
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

// unroll orders what depends on each other: the next one is that which lacks
// the fewest others, those it must have before it is unpacked above all.
func (o *arranger) unroll(loop []int32) {
	// As they were found is as they depend on each other, and that by name:
	// equal input gives equal order.
	for len(loop) > 0 {
		best, lacking := 0, -1
		for i, v := range loop {
			lacks := 0
			for _, w := range o.before[v] {
				if slices.Contains(loop, w) {
					lacks++
				}
			}
			for _, w := range o.strictly[v] {
				if slices.Contains(loop, w) {
					lacks += 1 << 20
				}
			}
			if lacking < 0 || lacks < lacking {
				best, lacking = i, lacks
			}
		}
		o.order = append(o.order, loop[best])
		loop = slices.Delete(loop, best, best+1)
	}
}

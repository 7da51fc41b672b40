package layer

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// A Chain is a base and layers that were opened together.
type Chain struct {
	Base   *Base
	Layers []*Layer // bottom to top
}

// OpenChain opens a base and layers over it, bottom to top. All but the last
// must be sealed.
func OpenChain(base string, d digest.Digest, layers ...string) (*Chain, error) {
	b, err := OpenBase(base, d)
	if err != nil {
		return nil, err
	}
	c := &Chain{Base: b}
	for _, path := range layers {
		l, err := Open(path, c.Top())
		if err != nil {
			c.Close()
			return nil, err
		}
		c.Layers = append(c.Layers, l)
	}
	return c, nil
}

// Top gives the uppermost part: the base where there are no layers.
func (c *Chain) Top() Parent {
	if len(c.Layers) == 0 {
		return c.Base
	}
	return c.Layers[len(c.Layers)-1]
}

// Close closes everything, top first.
func (c *Chain) Close() error {
	var first error
	for _, l := range slices.Backward(c.Layers) {
		if err := l.Close(); first == nil {
			first = err
		}
	}
	if err := c.Base.Close(); first == nil {
		first = err
	}
	return first
}

// parts gives what a chain consists of, bottom to top.
func parts(top Parent) []Parent {
	out := []Parent{top}
	for {
		l, ok := top.(*Layer)
		if !ok {
			slices.Reverse(out)
			return out
		}
		top = l.parent
		out = append(out, top)
	}
}

// same says whether two parts at one height of two chains, with the same
// below them, have the same content.
func same(a, b Parent) bool {
	if a == b {
		return true
	}
	d := a.Digest()
	return d != "" && d == b.Digest()
}

// Union gives the ranges that are in any of the lists, sorted and merged. The
// result does not say what is zero.
func Union(lists ...[]Extent) []Extent {
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(a, b Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []Extent
	for _, e := range all {
		if e.Length <= 0 {
			continue
		}
		if k := len(out) - 1; k >= 0 && e.Offset <= out[k].Offset+out[k].Length {
			out[k].Length = max(out[k].Length, e.Offset+e.Length-out[k].Offset)
		} else {
			out = append(out, Extent{Offset: e.Offset, Length: e.Length})
		}
	}
	return out
}

// Difference gives the ranges in which two chains over one base may differ:
// what the layers change that they do not share, and what only the longer one
// has. The error matches [ErrUnrelated] where the bases differ.
func Difference(a, b Parent) ([]Extent, error) {
	pa, pb := parts(a), parts(b)
	if !same(pa[0], pb[0]) {
		return nil, fmt.Errorf("%s and %s: %w", pa[0].Digest(), pb[0].Digest(), ErrUnrelated)
	}
	shared := 1
	for shared < len(pa) && shared < len(pb) && same(pa[shared], pb[shared]) {
		shared++
	}
	var lists [][]Extent
	for _, p := range slices.Concat(pa[shared:], pb[shared:]) {
		lists = append(lists, p.(*Layer).Extents())
	}
	short, long := min(a.Size(), b.Size()), max(a.Size(), b.Size())
	lists = append(lists, []Extent{{Offset: short, Length: long - short}})
	return Union(lists...), nil
}

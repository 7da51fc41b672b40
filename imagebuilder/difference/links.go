package difference

import (
	"slices"

	"hatchery/imagebuilder/diskimage"
)

// linkRecords are the files that have several names, in either image.
type linkRecords struct {
	list []linkRecord
	size int64
	more bool // than there is room for
}

type linkRecord struct {
	path    string
	nodes   [2]*diskimage.Node
	private bool
}

func linked(n *diskimage.Node) bool {
	return n != nil && n.Links > 1 && n.Inode != 0 && !n.IsDir()
}

func (r *linkRecords) note(was, is *diskimage.Node, private bool) {
	if !linked(was) && !linked(is) {
		return
	}
	path := ""
	for _, n := range []*diskimage.Node{was, is} {
		if n != nil {
			path = n.Path
		}
	}
	if r.size += int64(len(path)) + entryCost; r.size > linkRoom {
		r.more = true
		return
	}
	r.list = append(r.list, linkRecord{path, [2]*diskimage.Node{keep(was), keep(is)}, private})
}

// hardLinks finds out which names are of one file, and which files have other
// names now. Only names that are in both images make a difference to a file
// that is in both: a new name is told where it is new.
func (c *comparison) hardLinks() error {
	if c.links.more {
		c.problems.add("there are more files with several names than any real image has: not all of them are told as such")
	}
	type group struct{ names, common []string }
	groups := [2]map[fileID]*group{{}, {}}
	for _, r := range c.links.list {
		for i, n := range r.nodes {
			if !linked(n) {
				continue
			}
			g := groups[i][idOf(n)]
			if g == nil {
				g = &group{}
				groups[i][idOf(n)] = g
			}
			// Two names tell of each whether there is another; the first
			// stands for the file.
			if len(g.names) < 2 {
				g.names = append(g.names, r.path)
			}
			if len(g.common) == 0 && r.nodes[0] != nil && r.nodes[1] != nil {
				g.common = []string{r.path}
			}
		}
	}
	if len(c.links.list) == 0 {
		return nil
	}
	byPath := make(map[string]*entry, len(c.entries))
	for _, e := range c.entries {
		byPath[e.path] = e
	}
	for _, r := range c.links.list {
		var leaders, others [2]string
		for i, n := range r.nodes {
			leaders[i] = r.path
			if !linked(n) {
				continue
			}
			g := groups[i][idOf(n)]
			if len(g.common) > 0 {
				leaders[i] = g.common[0]
			}
			if k := slices.IndexFunc(g.names, func(name string) bool { return name != r.path }); k >= 0 {
				others[i] = g.names[k]
			}
		}
		e := byPath[r.path]
		if r.nodes[0] != nil && r.nodes[1] != nil && leaders[0] != leaders[1] {
			if e == nil {
				e = &entry{path: r.path, was: r.nodes[0], is: r.nodes[1], private: r.private}
				byPath[r.path] = e
				if len(c.entries) >= c.o.Listed || !c.spend(int64(entryCost+len(e.path))) {
					e.differs = []string{differsHardLinks}
					c.unlisted++
					c.totals.count(e)
					continue
				}
				c.entries = append(c.entries, e)
			}
			e.differs = append(e.differs, differsHardLinks)
		}
		if e != nil {
			e.links = others
		}
	}
	return nil
}

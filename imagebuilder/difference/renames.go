package difference

import (
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	// leastAlike is how many bytes two files of one content must have for
	// that alone to make one of them the other's new name.
	leastAlike = 32
	// mostAlike bounds how many files of one content speak for folders.
	mostAlike = 8
)

// A move is a folder that may have become another.
type move struct{ from, to *entry }

// renamer finds out which removed files became which added ones.
type renamer struct {
	c              *comparison
	removed, added map[string]*entry
	order          []*entry // all that was removed, by path
	addedOrder     []*entry // and all that was added
	byInode        map[fileID]*entry
	bySum          map[digest.Digest][]*entry // added regular files
	taken          map[*entry]bool
}

// renames joins what was removed with what was added where one became the
// other: folders with what is in them, by their inode or by most of their
// files; then single files of equal content.
func (c *comparison) renames() error {
	r := &renamer{
		c: c, removed: map[string]*entry{}, added: map[string]*entry{},
		byInode: map[fileID]*entry{}, bySum: map[digest.Digest][]*entry{}, taken: map[*entry]bool{},
	}
	slices.SortFunc(c.entries, func(a, b *entry) int { return comparePaths(a.path, b.path) })
	for _, e := range c.entries {
		switch {
		case e.is == nil:
			r.removed[e.path] = e
			r.order = append(r.order, e)
		case e.was == nil:
			r.added[e.path] = e
			r.addedOrder = append(r.addedOrder, e)
			if e.is.Inode != 0 && !linked(e.is) {
				r.byInode[idOf(e.is)] = e
			}
			if e.is.Mode.IsRegular() && e.is.Size > 0 && e.sums[1] != "" {
				r.bySum[e.sums[1]] = append(r.bySum[e.sums[1]], e)
			}
		}
	}
	if len(r.removed) == 0 || len(r.added) == 0 {
		return nil
	}
	if err := r.folders(); err != nil {
		return err
	}
	r.files()
	return nil
}

// sameInode gives the added file of that type that has a removed one's inode.
// An inode is given to another file once it is free, so that says little alone.
func (r *renamer) sameInode(from *entry) *entry {
	if from.was.Inode == 0 || linked(from.was) {
		return nil
	}
	to := r.byInode[idOf(from.was)]
	if to == nil || to.is.Mode.Type() != from.was.Mode.Type() || r.taken[to] {
		return nil
	}
	return to
}

func (r *renamer) folders() error {
	votes := r.votes()
	for _, from := range r.order {
		if !from.was.IsDir() || r.taken[from] {
			continue
		}
		if to := r.sameInode(from); to != nil && r.alike(from, to, true) {
			if err := r.moveFolder(from, to, true); err != nil {
				return err
			}
			continue
		}
		var best *entry
		for _, to := range votes[from] {
			if !r.taken[to.entry] && r.alike(from, to.entry, false) {
				best = to.entry
				break
			}
		}
		if best != nil {
			if err := r.moveFolder(from, best, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// A vote is how many files speak for a folder.
type vote struct {
	entry *entry
	count int
}

// votes counts, for removed folders, the files that lie in some added folder
// now under the same name. Those that most speak for come first.
func (r *renamer) votes() map[*entry][]vote {
	counts := map[move]int{}
	for _, from := range r.order {
		if !from.was.Mode.IsRegular() || from.was.Size == 0 || from.sums[0] == "" {
			continue
		}
		same := r.bySum[from.sums[0]]
		if len(same) > mostAlike {
			continue
		}
		for _, to := range same {
			a, b := from.path, to.path
			for base(a) == base(b) {
				a, b = parent(a), parent(b)
				m := move{r.removed[a], r.added[b]}
				if m.from == nil || m.to == nil {
					break
				}
				counts[m]++
			}
		}
	}
	votes := map[*entry][]vote{}
	for m, n := range counts {
		votes[m.from] = append(votes[m.from], vote{m.to, n})
	}
	for _, list := range votes {
		slices.SortFunc(list, func(a, b vote) int {
			if a.count != b.count {
				return b.count - a.count
			}
			return comparePaths(a.entry.path, b.entry.path)
		})
	}
	return votes
}

// inside gives the entries of a sorted list that are in a folder, which is in
// the list too.
func inside(list []*entry, folder string) []*entry {
	at, _ := slices.BinarySearchFunc(list, folder, func(e *entry, path string) int { return comparePaths(e.path, path) })
	end := at + 1
	for end < len(list) && below(list[end].path, folder) {
		end++
	}
	return list[at+1 : end]
}

// alike says whether one folder may have become the other: at least half of
// what was in it is in the other. Where their inodes do not tell either, that
// must be half of what is in the other, too.
func (r *renamer) alike(from, to *entry, sameInode bool) bool {
	all := inside(r.order, from.path)
	if len(all) == 0 {
		return sameInode && (base(from.path) == base(to.path) || from.was.ModTime.Equal(to.is.ModTime))
	}
	matched := 0
	for _, e := range all {
		if other := r.added[to.path+strings.TrimPrefix(e.path, from.path)]; other != nil && (sameInode || e.private == other.private) && r.matches(e, other) {
			matched++
		}
	}
	if matched*2 < len(all) {
		return false
	}
	if sameInode {
		return true
	}
	return matched*2 >= len(inside(r.addedOrder, to.path))
}

// matches says whether two files could be one.
func (r *renamer) matches(from, to *entry) bool {
	return from.was.Mode.Type() == to.is.Mode.Type() &&
		(!from.was.Mode.IsRegular() || from.was.Size == to.is.Size && from.sums[0] == to.sums[1])
}

// moveFolder renames a folder and what is in both. That a private file is what
// a public one was is told only where the inode, too, says that it is the same
// folder, as it is of a file that kept its path.
func (r *renamer) moveFolder(from, to *entry, sameInode bool) error {
	if err := r.rename(from, to, false); err != nil {
		return err
	}
	for _, e := range inside(r.order, from.path) {
		other := r.added[to.path+strings.TrimPrefix(e.path, from.path)]
		if other == nil || r.taken[e] || r.taken[other] || e.was.Mode.Type() != other.is.Mode.Type() ||
			!sameInode && e.private != other.private {
			continue
		}
		if err := r.rename(e, other, true); err != nil {
			return err
		}
	}
	return nil
}

// rename makes an added file a removed one under another name.
func (r *renamer) rename(from, to *entry, with bool) error {
	r.taken[from], r.taken[to] = true, true
	r.c.forgetDiff(from)
	r.c.forgetDiff(to)
	from.gone = true
	to.was, to.renamedFrom, to.with = from.was, from.path, with
	to.private = to.private || from.private
	to.links[0] = from.links[0]
	to.sums[0] = from.sums[0]
	to.differs = metadata(to.was, to.is)
	if to.is.Mode.IsRegular() && to.was.Size == to.is.Size && to.sums[0] != to.sums[1] {
		to.differs = append(to.differs, differsContent)
		sortDiffers(to.differs)
	}
	if !to.contentDiffers() {
		to.sums = [2]digest.Digest{}
		return nil
	}
	return r.c.wantText(to)
}

// files renames single files: those that have the same inode and content,
// then those of the same name and content, then those of which nothing else
// has the content.
func (r *renamer) files() {
	type key struct {
		sum     digest.Digest
		private bool
		name    string
	}
	by := func(named bool) (from, to map[key][]*entry) {
		from, to = map[key][]*entry{}, map[key][]*entry{}
		add := func(m map[key][]*entry, e *entry, sum digest.Digest) {
			k := key{sum: sum, private: e.private}
			if named {
				k.name = base(e.path)
			}
			m[k] = append(m[k], e)
		}
		for _, e := range r.order {
			if !r.taken[e] && e.was.Mode.IsRegular() && e.was.Size > 0 && e.sums[0] != "" {
				add(from, e, e.sums[0])
			}
		}
		for _, e := range r.addedOrder {
			if !r.taken[e] && e.is.Mode.IsRegular() && e.is.Size > 0 && e.sums[1] != "" {
				add(to, e, e.sums[1])
			}
		}
		return from, to
	}
	for _, e := range r.order {
		if r.taken[e] || e.was.IsDir() {
			continue
		}
		to := r.sameInode(e)
		if to == nil || e.private != to.private || !e.was.ModTime.Equal(to.is.ModTime) {
			continue
		}
		regular := e.was.Mode.IsRegular() && e.was.Size > 0 && e.sums[0] != "" && e.sums[0] == to.sums[1]
		if regular || e.was.Target != "" && e.was.Target == to.is.Target {
			_ = r.rename(e, to, false) // of equal content: nothing is read
		}
	}
	for _, named := range []bool{true, false} {
		from, to := by(named)
		for _, e := range r.order {
			k := key{sum: e.sums[0], private: e.private}
			if named {
				k.name = base(e.path)
			}
			if r.taken[e] || len(from[k]) != 1 || from[k][0] != e || len(to[k]) != 1 || !named && e.was.Size < leastAlike {
				continue
			}
			_ = r.rename(e, to[k][0], false)
		}
	}
}

package difference

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"hatchery/internal/deb822"
)

const (
	statusPath = deb822.StatusFile
	// Bounds of what is read of packages: a large desktop has some 3,000 in
	// some megabytes.
	mostStatus   = 64 << 20
	mostPackages = 100_000
)

// packagesOf compares the packages that dpkg knows of.
func (c *comparison) packagesOf() error {
	s := c.special[statusPath]
	i := slices.IndexFunc(c.entries, func(e *entry) bool { return e.path == statusPath && !e.gone })
	if i < 0 || c.entries[i].private || s[0].node == nil || s[1].node == nil {
		return nil
	}
	e := c.entries[i]
	if !e.regular() || !e.contentDiffers() || e.noDiff == noDiffUnread {
		return nil
	}
	var all [2][]installed
	for i, l := range c.lanes {
		var failed error
		if err := l.do(func() { all[i], failed = l.packages() }); err != nil {
			return err
		}
		if failed != nil {
			c.problems.add("%s: %s is not compared by packages: %v", l.name, statusPath, failed)
			// So its text is told after all: this time it is to be read for that.
			c.text = append(c.text, e)
			return c.readTexts()
		}
	}
	c.packages = comparePackages(all[0], all[1])
	return nil
}

// installed is a package that is there.
type installed struct {
	name  string
	state PackageState
}

func (i installed) copied() *PackageState { return &i.state }

func (l *lane) packages() ([]installed, error) {
	f, err := l.tree.Open(statusPath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := &io.LimitedReader{R: f, N: mostStatus}
	var all []installed
	err = deb822.ReadStatus(in, func(p *deb822.Package) error {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if p.State == "not-installed" {
			return nil
		}
		if len(all) == mostPackages {
			return fmt.Errorf("more than %d packages", mostPackages)
		}
		i := installed{p.Name, PackageState{Version: Text(p.Version), Architecture: Text(p.Architecture), State: Text(p.State)}}
		if p.Want != "install" {
			i.state.Want = Text(p.Want)
		}
		all = append(all, i)
		return nil
	})
	if err == nil && in.N <= 0 {
		err = fmt.Errorf("more than %d MiB", mostStatus>>20)
	}
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b installed) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.state.Architecture, b.state.Architecture))
	})
	return all, nil
}

// present says whether a package's files are there.
func (s *PackageState) present() bool { return s != nil && s.State != "config-files" }

// comparePackages compares two sorted lists. A package may be there for
// several architectures; one that changed its only architecture is the same.
func comparePackages(was, is []installed) []Package {
	var changes []Package
	for len(was) > 0 || len(is) > 0 {
		var name string
		switch {
		case len(was) == 0:
			name = is[0].name
		case len(is) == 0:
			name = was[0].name
		default:
			name = min(was[0].name, is[0].name)
		}
		var before, after []installed
		before, was = named(was, name)
		after, is = named(is, name)
		for i := 0; i < len(before); i++ {
			j := slices.IndexFunc(after, func(p installed) bool { return p.state.Architecture == before[i].state.Architecture })
			if j < 0 {
				continue
			}
			changes = appendPackage(changes, name, before[i].copied(), after[j].copied())
			before, after = slices.Delete(before, i, i+1), slices.Delete(after, j, j+1)
			i--
		}
		if len(before) == 1 && len(after) == 1 {
			changes = appendPackage(changes, name, before[0].copied(), after[0].copied())
			continue
		}
		for i := range before {
			changes = appendPackage(changes, name, before[i].copied(), nil)
		}
		for i := range after {
			changes = appendPackage(changes, name, nil, after[i].copied())
		}
	}
	return changes
}

// named cuts off the packages of one name.
func named(list []installed, name string) (found, rest []installed) {
	n := 0
	for n < len(list) && list[n].name == name {
		n++
	}
	return slices.Clone(list[:n]), list[n:]
}

func appendPackage(changes []Package, name string, was, is *PackageState) []Package {
	p := Package{Name: Text(name), Was: was, Is: is}
	switch {
	case was != nil && is != nil && *was == *is:
		return changes
	case !was.present() && is.present():
		p.Change = Installed
	case was.present() && !is.present():
		p.Change = Removed
	case was == nil || is == nil: // what is left of a removed package's configuration came or went
		p.Change = Changed
	case deb822.CompareVersions(string(was.Version), string(is.Version)) < 0:
		p.Change = Upgraded
	case deb822.CompareVersions(string(was.Version), string(is.Version)) > 0:
		p.Change = Downgraded
	default:
		p.Change = Changed
	}
	return append(changes, p)
}

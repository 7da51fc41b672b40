package dpkg

import (
	"fmt"
	"strings"
)

// replaces says whether a package's Replaces lets it take files of another one
// (src/main/archives.c, does_replace).
func replaces(r, other *record) (bool, error) {
	groups, err := r.relations(fieldReplaces)
	if err != nil {
		return false, fmt.Errorf("%s: %w", r.name, err)
	}
	for _, group := range groups {
		if group[0].name == other.name && group[0].admits(other.version) && admitsArch(group[0], other) {
			return true, nil
		}
	}
	return false, nil
}

// admitsArch says whether a relation means packages of the other's
// architecture. Without a qualifier, Replaces, Conflicts and Breaks mean all.
func admitsArch(r relation, other *record) bool {
	return r.arch == "" || r.arch == "any" || r.arch == other.arch
}

// meets says whether a record is one that a relation means: by its name, or by
// what it provides (lib/dpkg/depcon.c, pkg_virtual_deppossi_satisfied).
func meets(r relation, other *record) (bool, error) {
	if other.name == r.name {
		return r.admits(other.version) && admitsArch(r, other), nil
	}
	provides := other.get(fieldProvides)
	if !strings.Contains(strings.ToLower(provides), r.name) {
		return false, nil
	}
	groups, err := parseRelations(fieldProvides, provides)
	if err != nil {
		return false, fmt.Errorf("%s: %w", other.name, err)
	}
	for _, group := range groups {
		p := group[0]
		if p.name != r.name || !admitsArch(r, other) {
			continue
		}
		if r.op == "" || p.op == "=" && r.admits(p.version) {
			return true, nil
		}
	}
	return false, nil
}

// checkRelations makes sure that dpkg would unpack a package now
// (src/main/unpack.c, pkg_check_depcon).
func (u *unpacker) checkRelations(c *candidate) error {
	for _, other := range u.db.records {
		if other.name == c.name || !other.present() {
			continue
		}
		if r, err := u.inConflict(&c.record, other, fieldConflicts); err != nil || r != nil {
			return orRelationError(err, &c.record, fieldConflicts, r, other)
		}
		if r, err := u.inConflict(other, &c.record, fieldConflicts); err != nil || r != nil {
			return orRelationError(err, other, fieldConflicts, r, &c.record)
		}
	}
	return u.checkPreDepends(c)
}

// broken gives the packages that cannot stay configured beside the new one.
func (u *unpacker) broken(c *candidate) ([]*record, error) {
	var list []*record
	for _, other := range u.db.records {
		if other.name == c.name || other.state < triggersAwaited {
			continue
		}
		r, err := u.inConflict(&c.record, other, fieldBreaks)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		if !other.ahead {
			return nil, orRelationError(nil, &c.record, fieldBreaks, r, other)
		}
		list = append(list, other)
	}
	return list, nil
}

func orRelationError(err error, who *record, name string, r *relation, other *record) error {
	if err != nil {
		return err
	}
	return &InputError{&RelationError{Package: who.name, Field: name, Relation: r.String(), Other: other.name + " " + other.version}}
}

// inConflict gives the relation by which one package rules another one out.
func (u *unpacker) inConflict(who, other *record, name string) (*relation, error) {
	value := who.get(name)
	if value == "" {
		return nil, nil
	}
	groups, err := parseRelations(name, value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", who.name, err)
	}
	for _, group := range groups {
		ok, err := meets(group[0], other)
		if err != nil || ok {
			return &group[0], err
		}
	}
	return nil, nil
}

// checkPreDepends makes sure that what a package pre-depends on is there. What
// is only unpacked by now the node configures before it runs the package's
// preinst.
func (u *unpacker) checkPreDepends(c *candidate) error {
	groups, err := c.relations(fieldPreDepends)
	if err != nil {
		return err
	}
	for _, group := range groups {
		if u.satisfier(c, group) == nil {
			return &InputError{&RelationError{Package: c.name, Field: fieldPreDepends, Relation: formatRelations([][]relation{group})}}
		}
	}
	return nil
}

// satisfier gives a package that is there and meets a dependency, one that is
// configured rather than one that is not; nil where there is none.
func (u *unpacker) satisfier(c *candidate, group []relation) *record {
	var found *record
	for _, r := range group {
		for _, other := range u.db.records {
			if !other.present() || other.state == halfInstalled {
				continue
			}
			if r.arch == "" || r.arch == "any" { // foreign packages only count by what Multi-Arch says
				if u.db.foreign(other) && !strings.EqualFold(other.get("Multi-Arch"), "foreign") {
					continue
				}
				r.arch = ""
			}
			if ok, err := meets(r, other); err != nil || !ok {
				continue
			}
			if other.state >= triggersAwaited {
				return other
			}
			if found == nil {
				found = other
			}
		}
	}
	return found
}

// configureBefore has the packages configured that must be before a script is
// run: those that are pre-depended on and only unpacked, and what they need.
func (u *unpacker) configureBefore(c *candidate) error {
	var specs []string
	seen := map[*record]bool{}
	var need func(who *record, names ...string) error
	need = func(who *record, names ...string) error {
		for _, name := range names {
			groups, err := who.relations(name)
			if err != nil {
				return fmt.Errorf("%s: %w", who.name, err)
			}
			for _, group := range groups {
				other := u.satisfier(c, group)
				if other == nil || other.state >= triggersAwaited || other.name == c.name || seen[other] {
					continue
				}
				seen[other] = true
				if err := need(other, fieldPreDepends, fieldDepends); err != nil {
					return err
				}
				specs = append(specs, u.db.unambiguous(other))
			}
		}
		return nil
	}
	if err := need(&c.record, fieldPreDepends); err != nil || len(specs) == 0 {
		return err
	}
	u.scripts.configure(&c.record, specs)
	return nil
}

package dependency

// reaches says whether a relation of a package of one architecture can mean a
// package of another (or the same) one; multi is that one's Multi-Arch.
// A negative relation without a qualifier means all architectures.
func (u *Universe) reaches(k kind, qualifier string, from, to uint16, multi uint8) bool {
	switch qualifier {
	case "":
		return k.negative() || from == to || multi == multiForeign
	case "any":
		return k.negative() || multi == multiAllowed
	case "native":
		return to == 0
	}
	return u.archs[to] == qualifier
}

// targets calls yield for every version that an atom of owner's relations
// means: of the name itself, and of those that provide it. Of each package
// only the version counts that in picks. A package's relations never exclude the
// package itself, nor what it provides. A version may come twice.
func (u *Universe) targets(owner int32, k kind, a *atom, in func(p int32) int32, yield func(v int32)) {
	self := u.versions[owner].pkg
	from := u.packages[self].arch
	for p := u.names[a.name].packages; p != none; p = u.packages[p].next {
		if k.negative() && (p == self || u.packages[p].name == u.packages[self].name && u.versions[owner].multiArch == multiSame) {
			continue
		}
		v := in(p)
		if v != none && u.reaches(k, a.Qualifier, from, u.packages[p].arch, u.versions[v].multiArch) && a.accepts(u.versionText(v)) {
			yield(v)
		}
	}
	for i := u.names[a.name].providers; i != none; i = u.provides[i].next {
		entry := &u.provides[i]
		p := u.versions[entry.owner].pkg
		if in(p) != entry.owner || k.negative() && u.packages[p].name == u.packages[self].name {
			continue
		}
		multi := u.versions[entry.owner].multiArch
		if entry.explicit {
			multi = multiNo
		}
		if !u.reaches(k, a.Qualifier, from, entry.arch, multi) {
			continue
		}
		// A relation to a version is met by a versioned Provides only.
		if a.Operator == "" || entry.version != "" && a.accepts(entry.version) {
			yield(entry.owner)
		}
	}
}

// siblings calls yield for every package of the same name and another
// architecture whose picked version cannot be installed beside this one: only
// Multi-Arch: same packages of the same version can.
func (u *Universe) siblings(v int32, in func(p int32) int32, yield func(v int32)) {
	self := u.versions[v].pkg
	for p := u.names[u.packages[self].name].packages; p != none; p = u.packages[p].next {
		if p == self {
			continue
		}
		other := in(p)
		if other == none {
			continue
		}
		if u.versions[v].multiArch == multiSame && u.versions[other].multiArch == multiSame && u.versionText(v) == u.versionText(other) {
			continue
		}
		yield(other)
	}
}

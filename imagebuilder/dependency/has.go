package dependency

// Has says whether there is a package of that name, in any version.
func (u *Universe) Has(name string) bool {
	n, ok := u.byName[name]
	return ok && u.names[n].packages != none
}

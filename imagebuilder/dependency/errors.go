package dependency

import (
	"fmt"
	"strings"
)

// An InputError is a mistake in what the user asked for, as opposed to
// packages that do not go together.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }
func (e *InputError) Unwrap() error { return e.Err }

// An UnknownPackageError says that there is no package, or no version of it,
// that could be installed.
type UnknownPackageError struct {
	Name    string
	Version string // that was wanted, or ""
	// Versions are those that there are, the newest first, where the name is
	// known.
	Versions []string
	// Providers are the packages that provide the name, where more than one
	// does and it is no package of its own.
	Providers []string
	// Near are names that differ little.
	Near []string
	// Detail says why a known version is not taken, or "".
	Detail string
}

func (e *UnknownPackageError) Error() string {
	switch {
	case len(e.Providers) > 0:
		return fmt.Sprintf("%s is no package, but something that packages provide: name one of %s", e.Name, list(e.Providers, "or"))
	case e.Version != "" && len(e.Versions) > 0:
		return fmt.Sprintf("there is no version %s of %s; there is %s", e.Version, e.Name, list(e.Versions, "and"))
	case e.Detail != "":
		return fmt.Sprintf("%s cannot be installed: %s", e.Name, e.Detail)
	case len(e.Near) > 0:
		return fmt.Sprintf("no source has a package %s; did you mean %s?", e.Name, list(e.Near, "or"))
	}
	return fmt.Sprintf("no source has a package %s", e.Name)
}

// An UnsatisfiableError says why what is wanted does not go together.
type UnsatisfiableError struct {
	Wanted []string
	// Chain is the explanation: a line a step, indented by two spaces a level.
	Chain []string
}

func (e *UnsatisfiableError) Error() string {
	return fmt.Sprintf("%s cannot be installed:\n  %s", list(e.Wanted, "and"), strings.Join(e.Chain, "\n  "))
}

// An UpgradeError says that what is wanted takes newer versions of packages
// that the image has.
type UpgradeError struct {
	Wanted   []string
	Upgrades []Upgrade
	// Chain tells how it comes to that: a line a step, indented by two spaces
	// a level.
	Chain []string
}

// An Upgrade is another version of a package that is there.
type Upgrade struct{ Name, From, To string }

func (e *UpgradeError) Error() string {
	var names []string
	for _, u := range e.Upgrades {
		names = append(names, fmt.Sprintf("%s from %s to %s", u.Name, u.From, u.To))
	}
	return fmt.Sprintf("%s would change what the base image has: %s\n  %s\nAllow it with `docker: {upgrade: true}`, or take a newer base image",
		list(e.Wanted, "and"), list(names, "and"), strings.Join(e.Chain, "\n  "))
}

// list writes names as a sentence has them, the first dozen of them.
func list(names []string, and string) string {
	const most = 12
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	if len(names) > 1 {
		return strings.Join(names[:len(names)-1], ", ") + " " + and + " " + names[len(names)-1]
	}
	return strings.Join(names, "")
}

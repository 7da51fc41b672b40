package dpkg

import "fmt"

// An InputError is a mistake in what the user asked for. Its message says what
// to do.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap gives the error without the verdict.
func (e *InputError) Unwrap() error { return e.Err }

// A DatabaseError says that dpkg's database in the image, or another file that
// it goes by, is not as dpkg leaves it.
type DatabaseError struct {
	File   string // in the image
	Line   int    // from 1; 0 where it is about no single line
	Detail string
}

func (e *DatabaseError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Detail
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Detail)
}

func databaseErrorf(file string, line int, format string, args ...any) error {
	return &DatabaseError{File: file, Line: line, Detail: fmt.Sprintf(format, args...)}
}

// A PresentError says that the image has a package already. It comes within an
// [*InputError].
type PresentError struct{ Package, Present, New string }

func (e *PresentError) Error() string {
	if e.Present == e.New {
		return fmt.Sprintf("the image has %s %s already: leave it out", e.Package, e.Present)
	}
	return fmt.Sprintf("the image has %s %s already, which %s would replace: allow it with `docker: {upgrade: true}`, or take a base image that is up to date", e.Package, e.Present, e.New)
}

// An ArchitectureError says that a package is for other machines than the
// image. It comes within an [*InputError].
type ArchitectureError struct{ Package, Architecture, Image string }

func (e *ArchitectureError) Error() string {
	return fmt.Sprintf("%s is for %s, and the image's packages are for %s", e.Package, e.Architecture, e.Image)
}

// A FileConflictError says that a file of a package is another package's
// already, and that neither of them may replace the other's files. It comes
// within an [*InputError].
type FileConflictError struct{ Path, Package, Owner, OwnerVersion string }

func (e *FileConflictError) Error() string {
	return fmt.Sprintf("%s of %s is in %s %s too, and neither says that it replaces the other: leave one of the two packages out", e.Path, e.Package, e.Owner, e.OwnerVersion)
}

// A RelationError says that what a package asks of others does not hold. It
// comes within an [*InputError].
type RelationError struct {
	Package  string // who asks
	Field    string // Conflicts, Breaks, Pre-Depends
	Relation string // "docker-ce (<< 5)"
	Other    string // who is in the way, with its version; "" where somebody is missing
}

func (e *RelationError) Error() string {
	switch e.Field {
	case fieldPreDepends:
		return fmt.Sprintf("%s can only be unpacked when there is %s: name it before this package", e.Package, e.Relation)
	case fieldBreaks:
		return fmt.Sprintf("%s breaks %s, and there is %s: leave one of the two out, or have both upgraded", e.Package, e.Relation, e.Other)
	default:
		return fmt.Sprintf("%s conflicts with %s, and there is %s: leave one of the two out", e.Package, e.Relation, e.Other)
	}
}

// An EscapeError says that a symbolic link of the image leads above its root.
// On the node it would end at the root, but nothing that a package holds is
// meant to go that way.
type EscapeError struct{ Path, Link, Target string }

func (e *EscapeError) Error() string {
	return fmt.Sprintf("%s cannot be written: the symbolic link %s leads out of the image, by way of %s", e.Path, e.Link, e.Target)
}

package release

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"hatchery/overlays"
)

// editor collects the edits of one target. The first error stays.
type editor struct {
	root     Root
	target   Target
	codename string
	from     string
	edits    Edits
	err      error
}

func (e *editor) done() (*Edits, error) {
	if e.err != nil {
		return nil, e.err
	}
	slices.Sort(e.edits.Remove)
	e.edits.Remove = slices.Compact(e.edits.Remove)
	entries, err := overlays.Merge(e.edits.Entries)
	if err != nil {
		return nil, err
	}
	e.edits.Entries = entries
	return &e.edits, nil
}

func (e *editor) write(entry overlays.Entry) {
	entry.From = e.from
	e.edits.Entries = append(e.edits.Entries, entry)
}

func (e *editor) link(p, target string) {
	e.write(overlays.Entry{Path: p, Mode: fs.ModeSymlink | 0o777, Target: target})
}

// remove removes a path if it is there.
func (e *editor) remove(p string) {
	if e.exists(p) {
		e.edits.Remove = append(e.edits.Remove, p)
	}
}

// problem reports what the image lacks.
func (e *editor) problem(fatal bool, message, remedy string) {
	e.edits.Problems = append(e.edits.Problems, Problem{fatal, message, remedy})
}

// need reports a file that the image lacks. A folder of that name is none.
func (e *editor) need(p string, fatal bool, message, remedy string) {
	if !e.isFile(p) {
		e.problem(fatal, message, remedy)
	}
}

func (e *editor) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// exists says whether there is something at a path.
func (e *editor) exists(p string) bool {
	_, err := e.root.Lstat(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.fail(fmt.Errorf("cannot look at %s: %w", p, err))
	}
	return err == nil
}

// isFile says whether there is a regular file at a path, or a link to one.
func (e *editor) isFile(p string) bool {
	for range 16 { // links in a row
		mode, err := e.root.Lstat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false
		case err != nil:
			// Below a file (the time zone UTC/x) there is nothing either.
			if above, aboveErr := e.root.Lstat(path.Dir(p)); aboveErr != nil || !above.IsRegular() {
				e.fail(fmt.Errorf("cannot look at %s: %w", p, err))
			}
			return false
		case mode&fs.ModeSymlink == 0:
			return mode.IsRegular()
		}
		target, err := e.root.Readlink(p)
		if err != nil {
			e.fail(fmt.Errorf("cannot read link %s: %w", p, err))
			return false
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(p), target)
		}
		p = path.Clean(target)
	}
	return false
}

// list gives the names in a folder, sorted; none if there is no such folder.
func (e *editor) list(dir string) []string {
	names, err := e.root.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.fail(fmt.Errorf("cannot read folder %s: %w", dir, err))
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return names
}

// read gives a file's content, and whether there is such a file.
func (e *editor) read(p string) ([]byte, bool) {
	data, err := e.root.ReadFile(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.fail(fmt.Errorf("cannot read %s: %w", p, err))
	}
	return data, err == nil
}

package oslist

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// showNames is how a user sees all names.
const showNames = "`hatchery lock --list` shows all names"

// An UnknownNameError is a name that the list does not have.
type UnknownNameError struct {
	Name string
	Near []string // names that may have been meant, the likeliest first
}

func (e *UnknownNameError) Error() string {
	meant := ""
	if len(e.Near) > 0 {
		meant = "did you mean " + strings.Join(e.Near, " or ") + "? "
	}
	return fmt.Sprintf("%q is not in the OS list: %s%s", e.Name, meant, showNames)
}

// An UnclearNameError is a name that stands for several images.
type UnclearNameError struct {
	Name string
	URLs []string // of these images
}

func (e *UnclearNameError) Error() string {
	urls := e.URLs
	if len(urls) > 4 {
		urls = append(slices.Clone(urls[:4]), "…")
	}
	return fmt.Sprintf("%q stands for several images of the OS list: write the URL of the one that is meant instead (%s)", e.Name, strings.Join(urls, ", "))
}

// An UnusableNameError is a name whose entry in the list lacks what is
// needed to fetch and verify the image.
type UnusableNameError struct {
	Name   string
	Reason string
}

func (e *UnusableNameError) Error() string {
	return fmt.Sprintf("the OS list's entry of %q cannot be used, since %s: choose another (%s), or write an https URL with its sha256", e.Name, e.Reason, showNames)
}

// near lists the names that were likely meant by one that is not there: those
// that differ in a letter or three, and those that have all its words, for
// who left the architecture out.
func (l *List) near(name string) []string {
	const most = 4
	if len(name) > 64 {
		return nil
	}
	type candidate struct {
		name     string
		distance int
	}
	var near []candidate
	wanted := words(name)
	for _, e := range l.entries {
		d := distance(strings.ToLower(name), e.Name)
		has := words(e.Name)
		within := !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(has, w) })
		if d <= min(3, len(name)/3) || within && len(wanted) > 0 {
			near = append(near, candidate{e.Name, d})
		}
	}
	slices.SortFunc(near, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), strings.Compare(a.name, b.name))
	})
	var names []string
	for _, c := range near[:min(most, len(near))] {
		names = append(names, c.name)
	}
	return names
}

func words(name string) []string {
	return strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return strings.ContainsRune("_-. ", r) })
}

// distance is how many letters have to be changed, added or removed to make b
// of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

package drive

import (
	"fmt"
	"strings"
)

// An InputError is a mistake of the one who named a drive; its text says what to
// do instead.
type InputError struct {
	Path    string `json:"path"`
	Problem string `json:"problem"`
}

func (e *InputError) Error() string { return e.Problem }

// A PermissionError says that a drive may be written to, but not by this user.
type PermissionError struct {
	Path   string `json:"path"`
	Remedy string `json:"remedy,omitempty"`
}

func (e *PermissionError) Error() string {
	text := fmt.Sprintf("this user may not write to %s", shown(e.Path))
	if e.Remedy != "" {
		text += ": " + e.Remedy
	}
	return text
}

// A ChangedError says that another disk or card is where the one was that was
// agreed to.
type ChangedError struct {
	Path string `json:"path"`
	What string `json:"what"`
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s is not what it was a moment ago: %s; nothing was written: begin again", shown(e.Path), e.What)
}

// A RefusedError says that too much speaks against writing to a drive.
type RefusedError struct {
	Path       string      `json:"path"`
	Objections []Objection `json:"objections"`
}

func (e *RefusedError) Error() string {
	var texts []string
	for _, o := range e.Objections {
		texts = append(texts, o.Text)
	}
	return fmt.Sprintf("%s is not written to: %s", shown(e.Path), strings.Join(texts, "; "))
}

// A BusyError says that somebody else has the drive, or a mount of it, and who
// to ask.
type BusyError struct {
	Path   string `json:"path"`
	Mount  *Mount `json:"mount,omitempty"` // what cannot be unmounted
	Reason string `json:"reason"`
}

func (e *BusyError) Error() string {
	if e.Mount != nil {
		return fmt.Sprintf("cannot unmount %s (%s): %s", shown(e.Mount.Place), shown(e.Mount.Device), e.Reason)
	}
	return fmt.Sprintf("%s is in use: %s", shown(e.Path), e.Reason)
}

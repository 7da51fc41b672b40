// Package oslist reads Raspberry Pi's published list of operating systems,
// the one that Raspberry Pi Imager offers: it turns a name such as
// raspios_lite_armhf into the address, the digests and the sizes of the image
// that is current under that name.
//
// The format is that of rpi-imager (doc/json-schema in its repository): an
// object whose os_list has entries, some of which are images (url) and some
// of which hold more entries (subitems), to any depth. Entries with a
// subitems_url point to lists that other publishers keep elsewhere: those are
// not followed, so what stands only there has no name here. The published
// list has most of them filled in already.
//
// The names are not in the list: its own are titles for people ("Raspberry Pi
// OS Lite (32-bit)"). A name here is the first segment of the path of an
// entry's download URL, where Raspberry Pi keeps all releases of one image:
//
//	https://downloads.raspberrypi.com/raspios_lite_armhf/images/…/….img.xz
//	                                  ^^^^^^^^^^^^^^^^^^
//
// Entries that share a name are releases of one image, of which the newest
// counts. Other publishers' entries have names by the same rule, but never
// take one of Raspberry Pi's: see [List.Find].
//
// The list comes from the network. Unknown fields are passed over, and an
// entry that makes no sense is left out without spoiling the others; but an
// entry that is offered has an https URL, a digest, and nothing in its texts
// that could disturb a terminal.
package oslist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// DefaultURL is where Raspberry Pi publishes its list.
const DefaultURL = "https://downloads.raspberrypi.com/os_list_imagingutility_v4.json"

// Limits of a list. That of November 2024 has 152,539 bytes, 213 entries and
// a depth of 5.
const (
	MaxSize    = 4 << 20 // bytes
	maxEntries = 20_000
	maxDepth   = 16
)

// A List is a list of operating systems.
type List struct {
	entries []Entry             // those with a name, sorted as Entries says
	unclear map[string][]string // names that several images claim, with their URLs
	useless map[string]string   // names whose entries cannot be used, and why
}

// A FormatError is a document that is no list of operating systems.
type FormatError struct{ Reason string }

func (e *FormatError) Error() string { return e.Reason }

// Parse reads a list. Every error is a [*FormatError].
func Parse(data []byte) (*List, error) {
	if len(data) > MaxSize {
		return nil, &FormatError{fmt.Sprintf("it is larger than %d MiB: this is no OS list", MaxSize>>20)}
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	switch trimmed := bytes.TrimSpace(data); {
	case len(trimmed) == 0:
		return nil, &FormatError{"it is empty"}
	case trimmed[0] == '<':
		return nil, &FormatError{"it is a web page, not an OS list: a proxy or a log-in page may have answered"}
	case trimmed[0] != '{':
		return nil, &FormatError{"it is no OS list: that is a JSON object with an os_list"}
	}
	var top struct {
		OSList json.RawMessage `json:"os_list"`
	}
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, &FormatError{syntaxReason(err)}
	}
	if top.OSList == nil {
		return nil, &FormatError{"it is no OS list: it has no os_list"}
	}
	r := reader{left: maxEntries}
	if err := r.items(top.OSList, 1); err != nil {
		return nil, err
	}
	return r.list(), nil
}

// syntaxReason says what is wrong with a document that is not JSON.
func syntaxReason(err error) string {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF),
		errors.As(err, &syntax) && strings.Contains(syntax.Error(), "unexpected end"):
		return "it ends in the middle: it did not come whole"
	case errors.As(err, &syntax):
		return fmt.Sprintf("it is not JSON: %v, at byte %d", syntax, syntax.Offset)
	}
	return fmt.Sprintf("it is no OS list: %v", err)
}

// A reader walks through a document's entries.
type reader struct {
	left   int // how many entries may still come
	usable []Entry
	faulty map[string]string // why entries of a name cannot be used
}

// items reads an array of entries, one at a time, so that a hostile list
// costs no more memory than its own size.
func (r *reader) items(array json.RawMessage, depth int) error {
	if depth > maxDepth {
		return &FormatError{fmt.Sprintf("its subitems are nested more than %d deep: this is no OS list", maxDepth)}
	}
	d := json.NewDecoder(bytes.NewReader(array))
	if first, err := d.Token(); err != nil || first != json.Delim('[') {
		if depth == 1 {
			return &FormatError{"it is no OS list: its os_list is no array"}
		}
		return nil // subitems: null, or nonsense
	}
	for d.More() {
		if r.left--; r.left < 0 {
			return &FormatError{fmt.Sprintf("it has more than %d entries: this is no OS list", maxEntries)}
		}
		var it item
		err := d.Decode(&it)
		var wrongType *json.UnmarshalTypeError
		if err != nil && !errors.As(err, &wrongType) {
			return &FormatError{syntaxReason(err)}
		}
		if it.Subitems != nil {
			if err := r.items(it.Subitems, depth+1); err != nil {
				return err
			}
		}
		r.take(it, wrongType)
	}
	return nil
}

// take puts an entry where it belongs.
func (r *reader) take(it item, wrongType *json.UnmarshalTypeError) {
	if it.URL == "" {
		return // a heading, or a list that is kept elsewhere
	}
	e, fault := it.entry()
	if e.Name == "" {
		return // nothing that a cluster file could name
	}
	if fault == "" && wrongType != nil {
		fault = fmt.Sprintf("its %s is %s", wrongType.Field, wrongType.Value)
	}
	if fault == "" {
		r.usable = append(r.usable, e)
		return
	}
	if r.faulty == nil {
		r.faulty = map[string]string{}
	}
	if r.faulty[e.Name] == "" {
		r.faulty[e.Name] = fault
	}
}

// list decides which entry each name stands for.
func (r *reader) list() *List {
	byName := map[string][]Entry{}
	for _, e := range r.usable {
		byName[e.Name] = append(byName[e.Name], e)
	}
	l := &List{unclear: map[string][]string{}, useless: map[string]string{}}
	for name, claims := range byName {
		if e, urls := newest(claims); urls != nil {
			l.unclear[name] = urls
		} else {
			l.entries = append(l.entries, e)
		}
	}
	for name, fault := range r.faulty {
		if byName[name] == nil {
			l.useless[name] = fault
		}
	}
	slices.SortFunc(l.entries, func(a, b Entry) int {
		if a.official() != b.official() {
			if a.official() {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return l
}

// newest chooses among entries of one name. Where it cannot, it gives the
// URLs that it cannot choose among.
func newest(claims []Entry) (Entry, []string) {
	// Whoever may put an entry into the list must not be able to take over a
	// name that stands for Raspberry Pi's own image, by a path and a date.
	if slices.ContainsFunc(claims, Entry.official) {
		claims = slices.DeleteFunc(claims, func(e Entry) bool { return !e.official() })
	}
	latest := slices.MaxFunc(claims, func(a, b Entry) int { return strings.Compare(a.Released, b.Released) })
	rivals := map[string]bool{}
	for _, e := range claims {
		if e.Released == latest.Released || !e.official() && e.Host() != latest.Host() {
			rivals[e.URL] = true
		}
	}
	if len(rivals) < 2 {
		return latest, nil
	}
	var urls []string
	for url := range rivals {
		urls = append(urls, url)
	}
	slices.Sort(urls)
	return Entry{}, urls
}

// Entries are the images that have a name: Raspberry Pi's own first, each
// part sorted by name.
func (l *List) Entries() []Entry { return slices.Clone(l.entries) }

// Find gives the image that a name stands for: the newest release under that
// name on Raspberry Pi's own servers; where they have none, the newest of the
// one publisher who has. Errors are an [*UnknownNameError], an
// [*UnclearNameError] where several images have an equal claim, or an
// [*UnusableNameError] where the list has the name but lacks what is needed.
func (l *List) Find(name string) (Entry, error) {
	for _, e := range l.entries {
		if e.Name == name {
			return e, nil
		}
	}
	if urls := l.unclear[name]; urls != nil {
		return Entry{}, &UnclearNameError{Name: name, URLs: urls}
	}
	if fault := l.useless[name]; fault != "" {
		return Entry{}, &UnusableNameError{Name: name, Reason: fault}
	}
	return Entry{}, &UnknownNameError{Name: name, Near: l.near(name)}
}

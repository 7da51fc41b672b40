package flash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/nodefile"
	"hatchery/internal/osrelease"
)

// A Kind is what a card holds.
type Kind string

// The kinds.
const (
	Empty      Kind = "empty"      // nothing that is known
	Unfinished Kind = "unfinished" // an image that was not put on it as a whole
	Hatchery   Kind = "hatchery"   // an image of hatchery's
	Other      Kind = "other"      // something else
)

// A Holding is what was found on a card.
type Holding struct {
	Kind     Kind   `json:"kind"`
	Cluster  string `json:"cluster,omitempty"`  // of Hatchery and Unfinished
	Target   string `json:"target,omitempty"`   // "p1"; of an image file that is Unfinished, its name
	Hostname string `json:"hostname,omitempty"` // of Hatchery
	Image    string `json:"image,omitempty"`    // of Unfinished: the Digest of its map
	// Text says it to people: "homelab's p1 (oneil), built 2026-11-20". It is
	// one line of what can be printed, whatever the card says.
	Text string `json:"text"`
}

func (h Holding) String() string { return h.Text }

// Inspect looks at what a card holds, by reading little of it. The error is the
// card's, or the context's.
func Inspect(ctx context.Context, card Card) (Holding, error) {
	type outcome struct {
		h   Holding
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		h, err := inspect(ctx, card)
		done <- outcome{h, err}
	}()
	select {
	case o := <-done:
		return o.h, o.err
	case <-ctx.Done():
		return Holding{}, context.Cause(ctx)
	}
}

func inspect(ctx context.Context, card Card) (h Holding, err error) {
	r := &reader{ctx: ctx, card: card, size: card.Size(), pages: map[int64][]byte{}}
	defer func() {
		// What lies on a card is anybody's, and those who read it are many.
		if p := recover(); p != nil {
			h, err = Holding{Kind: Other, Text: "something that cannot be read"}, nil
		}
		if r.err != nil {
			h, err = Holding{}, r.err
		}
	}()
	if r.size <= 0 {
		return Holding{Kind: Empty, Text: "nothing known"}, nil
	}
	head := make([]byte, min(headSize, r.size))
	if _, err := r.ReadAt(head, 0); err != nil {
		return Holding{}, err
	}
	if n, ok := parseNote(head); ok {
		h := Holding{Kind: Unfinished, Cluster: printable(n.Cluster), Target: printable(n.Target), Image: printable(n.Image)}
		switch {
		case h.Target == "":
			h.Text = "not finished: some image"
		case h.Cluster == "":
			h.Text = "not finished: " + h.Target
		default:
			h.Text = fmt.Sprintf("not finished: %s's %s", h.Cluster, h.Target)
		}
		return h, nil
	}
	im, err := diskimage.Open(r, r.size)
	if err != nil {
		// r's own error, which the deferred function gives, or its bound.
		return Holding{Kind: Other, Text: "something that takes long to be read"}, nil
	}
	return holding(im), nil
}

const (
	mostNode    = 1 << 20 // bytes of node.json
	mostRelease = 64 << 10
)

func holding(im *diskimage.Image) Holding {
	tree, err := im.Tree()
	if err == nil {
		if data, err := diskimage.ReadFile(tree, nodefile.Path, mostNode); err == nil {
			if n, err := nodefile.Parse(data); err == nil {
				h := Holding{Kind: Hatchery, Cluster: printable(n.Cluster), Target: printable(n.Name), Hostname: printable(n.Hostname)}
				h.Text = fmt.Sprintf("%s's %s (%s)", h.Cluster, h.Target, h.Hostname)
				if n.Epoch > 0 && n.Epoch < 1<<40 {
					h.Text += ", built " + n.Floor().Format(time.DateOnly)
				}
				return h
			}
		}
		if name := system(tree); name != "" {
			return Holding{Kind: Other, Text: name}
		}
	}
	var found []string
	more := 0
	for _, p := range im.Partitions() {
		if p.FileSystem == "" {
			continue
		}
		if len(found) == 4 {
			more++
			continue
		}
		name := p.FileSystem
		if p.FSLabel != "" {
			name += fmt.Sprintf(" %q", printable(p.FSLabel))
		}
		found = append(found, name)
	}
	if more > 0 {
		found = append(found, fmt.Sprintf("%d more", more))
	}
	switch {
	case len(found) > 0:
		return Holding{Kind: Other, Text: strings.Join(found, ", ")}
	case im.Table().Kind != diskimage.NoTable && len(im.Partitions()) > 0:
		return Holding{Kind: Other, Text: "partitions with nothing known in them"}
	}
	return Holding{Kind: Empty, Text: "nothing known"}
}

// system names the operating system of a card.
func system(tree diskimage.Tree) string {
	data, err := diskimage.ReadFile(tree, "/etc/os-release", mostRelease)
	if err != nil {
		if data, err = diskimage.ReadFile(tree, "/usr/lib/os-release", mostRelease); err != nil {
			return ""
		}
	}
	values := osrelease.Parse(data)
	// The 64-bit one calls itself Debian.
	_, err = tree.Lstat("/etc/rpi-issue")
	if values["ID"] == "raspbian" || err == nil {
		name := "a Raspberry Pi OS image"
		if code := printable(values["VERSION_CODENAME"]); code != "" {
			name += " (" + code + ")"
		}
		return name
	}
	return printable(values["PRETTY_NAME"])
}

// printable makes a text of a card one that is safe and short to print.
func printable(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			r = '_'
		}
		if n++; n > 80 {
			b.WriteString("…")
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

const (
	page = 16 << 10
	// mostRead bounds what is read of a card to tell what it holds, and
	// mostStreak what is read in one piece: the table of a large card's FAT has
	// megabytes, and does not tell.
	mostRead   = 8 << 20
	mostStreak = 512 << 10
)

var errTooMuch = errors.New("too much would have to be read")

// A reader reads a card at any place, and remembers what it read.
type reader struct {
	ctx   context.Context
	card  Card
	size  int64
	pages map[int64][]byte
	read  int64
	err   error // the card's or the context's
	// ahead is how much is read at once: more where reads follow each other.
	next, ahead int64
	streak      int64
}

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= r.size {
			return n, io.EOF
		}
		b, err := r.page(at / page * page)
		if err != nil {
			return n, err
		}
		if at%page >= int64(len(b)) {
			return n, io.EOF
		}
		n += copy(p[n:], b[at%page:])
	}
	return n, nil
}

// page gives a page of the card, and reads it if need be.
func (r *reader) page(at int64) ([]byte, error) {
	if b := r.pages[at]; b != nil {
		return b, nil
	}
	if r.err != nil {
		return nil, r.err
	}
	if r.ctx.Err() != nil {
		r.err = context.Cause(r.ctx)
		return nil, r.err
	}
	if at == r.next && r.ahead > 0 {
		if r.streak >= mostStreak {
			return nil, errTooMuch
		}
		r.ahead = min(2*r.ahead, 128<<10)
	} else {
		r.ahead, r.streak = page, 0
	}
	// The last block that is not whole, if there is such a thing, is not there.
	block := int64(r.card.BlockSize())
	n := min(r.ahead, r.size/block*block-at)
	if n <= 0 {
		return nil, io.EOF
	}
	if r.read += n; r.read > mostRead {
		return nil, errTooMuch
	}
	b := aligned(int(n))
	if err := readCard(r.card, b, at); err != nil {
		if n > page { // what is asked for may be well
			r.ahead = page
			b = b[:min(page, n)]
			err = readCard(r.card, b, at)
		}
		if err != nil {
			r.err = err
			return nil, err
		}
	}
	r.next = at + int64(len(b))
	r.streak += int64(len(b))
	for i := 0; i < len(b); i += page {
		r.pages[at+int64(i)] = b[i:min(i+page, len(b))]
	}
	return r.pages[at], nil
}

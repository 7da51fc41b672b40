package drive

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"hatchery/internal/capacity"
)

// An Objection is what speaks against writing to a drive.
type Objection struct {
	Text string `json:"text"`
	// Final: nothing that the user says overrides it.
	Final bool `json:"final"`
	// Mounts are those that it is about.
	Mounts []Mount `json:"mounts,omitempty"`
}

// Sizes that no card has, and beyond which a disk is none.
const (
	smallestCard   = 256 << 20
	largestCard    = 1 << 40
	largestBuiltIn = 256 << 30 // of disks on USB whose medium does not come out
)

// Objections are what speaks against writing to the drive, the gravest first.
// Mounts that desktops make by themselves are no objection: [Open] ends them.
func (d Drive) Objections() []Objection {
	var all []Objection
	object := func(final bool, mounts []Mount, format string, args ...any) {
		all = append(all, Objection{Text: fmt.Sprintf(format, args...), Final: final, Mounts: mounts})
	}
	if d.System {
		object(true, d.Mounts, "this machine runs from it")
	}
	switch {
	case d.Size > 0:
	case d.Kind == File:
		object(true, nil, "the file is empty: make it as large as the card that it stands for (truncate -s 8G FILE)")
	case d.Kind == Loop:
		object(true, nil, "no file is attached to it (losetup)")
	default:
		object(true, nil, "there is no card in it")
	}
	if d.ReadOnly && d.Size > 0 {
		if d.Kind == Disk {
			object(true, nil, "it is read-only: slide the lock switch of the card, or of its adapter, away from LOCK and put it in again")
		} else {
			object(true, nil, "it is read-only")
		}
	}
	if d.Kind == File && d.Size%512 != 0 {
		object(true, nil, "its %d bytes are no whole blocks of 512: make it as large as the card that it stands for (truncate -s 8G FILE)", d.Size)
	}
	var held []Mount
	var places []string
	for _, m := range d.Mounts {
		if !m.Casual {
			held = append(held, m)
			places = append(places, shown(m.Place))
		}
	}
	if len(held) > 0 && !d.System {
		object(false, held, "it is mounted at %s, where nothing is mounted by plugging it in: unmount it first, if it is the card", strings.Join(places, " and "))
	}
	if len(d.Users) > 0 {
		object(d.Kind == File, nil, "it is in use: %s", strings.Join(d.Users, ", "))
	}
	if d.Kind != Disk || d.Size <= 0 {
		return all
	}
	switch {
	case !d.Removable && d.Bus == "emmc":
		object(false, nil, "it is memory that is built into this machine (eMMC)")
	case !d.Removable && d.Bus != "usb" && d.Bus != "mmc":
		object(false, nil, "it is a disk of this machine: not removable, and neither on USB nor in a card reader")
	case d.Size > largestCard:
		object(false, nil, "it is larger than any card (%s)", capacity.Text(d.Size))
	case !d.Removable && d.Bus == "usb" && d.Size > largestBuiltIn:
		object(false, nil, "it looks like an external hard disk, not like a card (%s)", capacity.Text(d.Size))
	case d.Size < smallestCard:
		object(false, nil, "it is smaller than any card that holds an image (%s)", capacity.Text(d.Size))
	}
	return all
}

// Candidate says whether the drive may be proposed as the card: it is a disk
// that nothing speaks against.
func (d Drive) Candidate() bool { return d.Kind == Disk && len(d.Objections()) == 0 }

// Refusal is a [RefusedError] with what speaks against writing to the drive, nil
// where nothing does. Force leaves only what is final.
func (d Drive) Refusal(force bool) error {
	var left []Objection
	for _, o := range d.Objections() {
		if o.Final || !force {
			left = append(left, o)
		}
	}
	if left == nil {
		return nil
	}
	return &RefusedError{Path: d.Path, Objections: left}
}

// same says whether now, which lies where a drive lay that was judged, is still
// that one.
func same(judged, now Drive) error {
	differs := func(format string, args ...any) error {
		return &ChangedError{Path: judged.Path, What: fmt.Sprintf(format, args...)}
	}
	name := func(d Drive) string {
		if d.Model == "" && d.Serial == "" {
			return "an unnamed one"
		}
		return strings.TrimSpace(shown(d.Model) + " " + shown(d.Serial))
	}
	switch {
	case judged.Kind != now.Kind:
		return differs("it was a %s, and is a %s", shown(string(judged.Kind)), now.Kind)
	case judged.Size != now.Size && now.Size == 0:
		return differs("the card is gone")
	case judged.Size != now.Size:
		return differs("its size was %s (%d bytes), and is %s (%d bytes)", capacity.Text(judged.Size), judged.Size, capacity.Text(now.Size), now.Size)
	case judged.Model != now.Model, judged.Serial != now.Serial:
		return differs("it was %s, and is %s", name(judged), name(now))
	case judged.Number != now.Number:
		return differs("its number was %s, and is %s", shown(judged.Number), now.Number)
	case judged.Sequence != now.Sequence:
		return differs("a card was taken out or put in since")
	case judged.Path != now.Path:
		return differs("it was %s, and is %s", shown(judged.Path), shown(now.Path))
	}
	return nil
}

// judge says whether now may be opened by one who agreed to judged.
func judge(judged, now Drive, force bool) error {
	if err := same(judged, now); err != nil {
		return err
	}
	return now.Refusal(force)
}

// shown is a text from outside as a terminal may have it.
func shown(text string) string {
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return strconv.Quote(text)
		}
	}
	return text
}

// printable is what a device says of itself, without what would tell a terminal
// to do something, and without the blanks that fill its fields.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, " "))
	return strings.Join(strings.Fields(text), " ")
}

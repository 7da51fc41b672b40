package usbboottest

import (
	"fmt"

	"hatchery/netboot/usbboot"
)

// A Direction is a kind of transfer.
type Direction int

// The kinds.
const (
	ControlIn  Direction = iota + 1 // the board says something
	ControlOut                      // a length is announced
	BulkOut                         // data
)

// String names the direction.
func (d Direction) String() string {
	return [...]string{"?", "control in", "control out", "bulk out"}[max(0, min(int(d), 3))]
}

// A Transfer is one transfer that is about to happen.
type Transfer struct {
	Number     int // from 1, all attachments and power cycles included
	Attachment int
	Stage      usbboot.Stage
	Direction  Direction
	Name       string // of the file that it is about; "" where it is about none
	Bytes      int    // that the host offers or has room for
}

// A Mishap is what goes wrong.
type Mishap int

// What can go wrong with a transfer. Those that are about what a board says
// (WrongStatus and below) happen at the next transfer in which it says something.
const (
	Stall       Mishap = iota + 1 // it is refused; the next try works
	StallHalf                     // bulk: half of the data is taken, then it is refused
	StallAlways                   // it is refused, as is every one after it
	Gone                          // the board loses its power
	Wire                          // the transfer fails on the wire once
	WireAlways                    // it fails, as does every one after it
	Hang                          // nothing moves until the host's time is up, once
	HangAlways                    // nothing moves any more
	Short                         // in: 3 bytes come; bulk: half is taken, without an error
	Nothing                       // in: no bytes come, without an error; bulk: none are taken
	TooMuch                       // the transport says that more was moved than there was room for
	WrongStatus                   // the boot ROM's status is not 0
	BadCommand                    // a command that there is not
	Garbage                       // 260 bytes without sense or end
	LongName                      // a name that fills all bytes
	Escape                        // ../../etc/shadow
	Absolute                      // /etc/shadow
	Backslash                     // ..\config.txt
	Metadata                      // *BCM2711
	Forever                       // config.txt's size, again and again
)

// Mishaps lists all there are.
func Mishaps() []Mishap {
	var all []Mishap
	for m := Stall; m <= Forever; m++ {
		all = append(all, m)
	}
	return all
}

// String names the mishap.
func (m Mishap) String() string {
	names := [...]string{"none", "stall", "stall half-way", "stall always", "gone", "wire", "wire always", "hang", "hang always",
		"short", "nothing", "too much", "wrong status", "bad command", "garbage", "long name", "escape", "absolute", "backslash", "metadata", "forever"}
	if m < 0 || int(m) >= len(names) {
		return fmt.Sprintf("mishap %d", int(m))
	}
	return names[m]
}

// said says whether the mishap is in what the board says.
func (m Mishap) said() bool { return m >= WrongStatus }

// always says whether every transfer after it fails as well.
func (m Mishap) always() bool {
	return m == StallAlways || m == WireAlways || m == HangAlways || m == Forever
}

// A Fault is a mishap at a transfer.
type Fault struct {
	At     int                 // the transfer's number; 0: see When
	When   func(Transfer) bool // nil and At 0: the next transfer
	Mishap Mishap
}

func (f Fault) hits(t Transfer) bool {
	if f.Mishap.said() && t.Direction != ControlIn {
		return false
	}
	switch {
	case f.At > 0:
		return t.Number == f.At || t.Number > f.At && (f.Mishap.said() || f.Mishap.always())
	case f.When != nil:
		return f.When(t)
	}
	return true
}

package usbhost

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Slots is how many slots hang off a HAT's hub.
const Slots = 4

// A Wiring says which port of the HAT's hub is which slot's.
type Wiring struct {
	Hub      string // the USB path of the HAT's hub: "1-1.4"
	Straight bool   // connector N is port N; otherwise port 5-N
	Version  string // of the HAT, "2.6"; "" where the order was learned
	First    int    // the slot of the first connector; 0 is 1
	How      string // where this is known from, for people
}

// Slot tells the slot of a device by its USB path. Only what is plugged into the
// hub itself is a slot; what hangs behind one is not.
func (w Wiring) Slot(path string) (int, bool) {
	hub, port := parentOf(path)
	if hub == "" || hub != w.Hub || port < 1 || port > Slots {
		return 0, false
	}
	if !w.Straight {
		port = Slots + 1 - port
	}
	return max(1, w.First) - 1 + port, true
}

// Path gives the USB path of a slot's board, "" for a slot that a HAT has not.
func (w Wiring) Path(slot int) string {
	port, ok := connector(w.First, slot)
	if !ok || w.Hub == "" {
		return ""
	}
	if !w.Straight {
		port = Slots + 1 - port
	}
	return w.Hub + "." + strconv.Itoa(port)
}

// connector is the place of a slot on the HAT whose first slot is first.
func connector(first, slot int) (n int, ok bool) {
	n = slot - max(1, first) + 1
	return n, n >= 1 && n <= Slots
}

// String says the wiring in one line.
func (w Wiring) String() string {
	order := "port 5-N is slot N"
	if w.Straight {
		order = "port N is slot N"
	}
	if w.First > 1 {
		order += fmt.Sprintf(", counted from slot %d", w.First)
	}
	return fmt.Sprintf("hub %s, %s (%s)", w.Hub, order, w.How)
}

// straight says how the slots of a version of the HAT are wired. Source:
// clusterhat-image's clusterctrl.
func straight(version string) (bool, error) {
	major, minor, ok := parseVersion(version)
	if !ok || major < 1 || major > 3 {
		return false, fmt.Errorf("there is no known ClusterHAT version %q: versions 1.x, 2.x and 3.x are; set `hat: {version: …}` in cluster.yaml to what is printed on the board", version)
	}
	return major == 2 && minor == 6 || major == 3 && minor == 1, nil
}

func parseVersion(version string) (major, minor int, ok bool) {
	head, tail, dotted := strings.Cut(version, ".")
	if !dotted {
		tail = "0"
	}
	major, err1 := strconv.Atoi(head)
	minor, err2 := strconv.Atoi(tail)
	return major, minor, err1 == nil && err2 == nil && major >= 0 && minor >= 0 && minor <= 15
}

// ErrUnknownWiring says that it cannot be told which USB path is which slot's.
var ErrUnknownWiring = errors.New("the HAT's USB wiring is unknown")

// An UnknownWiringError is an ErrUnknownWiring that says what was seen and what can
// be done about it.
type UnknownWiringError struct {
	Reason string   // what is not known
	Seen   []Device // all devices that were attached
	Remedy string   // what to write where
}

// Error names the reason, the devices and the remedy.
func (e *UnknownWiringError) Error() string {
	seen := "no USB device is attached"
	if len(e.Seen) > 0 {
		lines := make([]string, len(e.Seen))
		for i, d := range e.Seen {
			lines[i] = d.String()
		}
		seen = "attached are " + strings.Join(lines, ", ")
	}
	return fmt.Sprintf("%v: %s; %s; %s", ErrUnknownWiring, e.Reason, seen, e.Remedy)
}

// Is makes the error an ErrUnknownWiring.
func (e *UnknownWiringError) Is(target error) bool { return target == ErrUnknownWiring }

package usbhost

import (
	"errors"
	"fmt"
	"strings"
)

// ErrBusy says that another program holds the device.
var ErrBusy = errors.New("another program holds the device")

// A BusyError is an ErrBusy that names the programs.
type BusyError struct {
	Path    string // of the device
	Holders []Process
}

// Error names the programs and what to do about them.
func (e *BusyError) Error() string {
	if len(e.Holders) == 0 {
		return fmt.Sprintf("%s: %v", e.Path, ErrBusy)
	}
	names := make([]string, len(e.Holders))
	remedy := "end it"
	for i, p := range e.Holders {
		names[i] = p.String()
		if strings.Contains(p.Command, "rpiboot") {
			remedy = "two servers cannot boot the same boards: `systemctl disable --now clusterctrl-rpiboot`, or end rpiboot"
		}
	}
	return fmt.Sprintf("%s: %v: %s; %s", e.Path, ErrBusy, strings.Join(names, ", "), remedy)
}

// Is makes the error an ErrBusy.
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

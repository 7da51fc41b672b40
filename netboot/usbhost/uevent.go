package usbhost

import (
	"bytes"
	"strings"
)

// A uevent is a message of the kernel about a device that came, went or changed.
type uevent struct {
	action    string // add, remove, bind, unbind, change …
	subsystem string
	kind      string // DEVTYPE: usb_device, usb_interface
}

// parseUevent reads a message of NETLINK_KOBJECT_UEVENT: "ACTION@DEVPATH", then
// KEY=VALUE, each ended by a zero byte. Messages of udev, which have another head,
// are not the kernel's.
func parseUevent(b []byte) (uevent, bool) {
	head, rest, ok := bytes.Cut(b, []byte{0})
	if !ok {
		return uevent{}, false
	}
	action, devpath, ok := strings.Cut(string(head), "@")
	if !ok || action == "" || !strings.HasPrefix(devpath, "/") {
		return uevent{}, false
	}
	e := uevent{action: action}
	for line := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, ok := strings.Cut(string(line), "=")
		if !ok {
			continue
		}
		switch key {
		case "SUBSYSTEM":
			e.subsystem = value
		case "DEVTYPE":
			e.kind = value
		}
	}
	return e, true
}

// ours says whether the event may have changed what [Host.Devices] lists. An
// interface that is bound says that its device is configured.
func (e uevent) ours() bool {
	return e.subsystem == "usb" && (e.kind == "usb_device" || e.action == "bind")
}

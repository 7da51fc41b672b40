package slots

import "time"

// Kind is what sort of thing was seen.
type Kind string

// What can be seen of a slot.
const (
	// PowerOn and PowerOff: somebody has just switched it.
	PowerOn  Kind = "power on"
	PowerOff Kind = "power off"
	// SeenOn and SeenOff: it was looked whether it has power.
	SeenOn  Kind = "power seen on"
	SeenOff Kind = "power seen off"

	// BootROM: the boot ROM is on USB, without any program.
	BootROM Kind = "boot rom"
	// FileServer: the second stage (bootcode.bin) is on USB and will ask for files.
	FileServer Kind = "file server"
	// File: Bytes of the Total bytes of the file Name were sent, and Sum bytes
	// of all files since the second stage appeared.
	File Kind = "file"
	// FileMissing: it asked for the file Name, which is not there. Firmware does
	// so with many files that it can do without.
	FileMissing Kind = "file missing"
	// FilesDone: it said that it needs no more files.
	FilesDone Kind = "files done"
	// USBGone: a device of the boot ROM or the second stage left the bus.
	USBGone Kind = "usb gone"
	// USBTrouble: serving it failed for the Reason. It may be tried again.
	USBTrouble Kind = "usb trouble"

	// LinkUp and LinkDown: its ethupiN is there with a carrier, or not any more.
	LinkUp   Kind = "link up"
	LinkDown Kind = "link down"
	// CardUp and CardDown: the same of ethpiN, which a node from a card has.
	CardUp   Kind = "card link up"
	CardDown Kind = "card link down"

	// RootAttached and RootDetached: a connection to its export, named by Conn
	// (such as the node's address and port), transmits or has ended for the Reason.
	RootAttached Kind = "root attached"
	RootDetached Kind = "root detached"
	// RootRefused: it asked for an export and did not get it, for the Reason.
	RootRefused Kind = "root refused"

	// CardBegun and CardWhole: its card is half written, or not any more. Whatever of
	// such a slot shows up on USB is started to go on writing its card.
	CardBegun Kind = "card begun"
	CardWhole Kind = "card whole"

	// AgentReady: the agent has just reported that the node is ready.
	AgentReady Kind = "agent ready"
	// AgentBusy: the agent has just reported something else: the Reason. A node
	// whose agent is heard is not power cycled for not being ready.
	AgentBusy Kind = "agent busy"
)

// Event is something that was seen of a slot. Events may come in any order,
// more than once, or not at all.
type Event struct {
	Kind Kind
	// At is when, by the monotonic clock; zero is now.
	At     time.Time
	Name   string
	Bytes  int64
	Total  int64
	Sum    int64
	Conn   string
	Reason string
}

package usbboot

import (
	"context"
	"errors"
	"io"
	"time"
)

// The reasons for which a [Transport] fails a transfer. Its errors wrap one of
// them; every other error of a transport is taken for [ErrIO].
var (
	// ErrGone: the device has left the bus (ENODEV, ESHUTDOWN).
	ErrGone = errors.New("the device has left")
	// ErrStall: the device refused the transfer (EPIPE).
	ErrStall = errors.New("the device refused the transfer (stall)")
	// ErrTimeout: the device did not do its part in the time given.
	ErrTimeout = errors.New("the device does not answer")
	// ErrIO: the transfer went wrong on the wire (EPROTO, EILSEQ, …). A device
	// that is leaving shows this before the hub notices.
	ErrIO = errors.New("the transfer failed")
)

// A Transport moves bytes to and from one attached device whose interface is
// claimed. A transfer ends as soon as ctx does, then with ctx's error. It is not
// used by two goroutines at once.
type Transport interface {
	// Control does a control transfer on endpoint 0 and says how many bytes of
	// data were moved. Bit 7 of requestType is the direction: set, data is
	// filled by the device.
	Control(ctx context.Context, requestType, request uint8, value, index uint16, data []byte, timeout time.Duration) (int, error)
	// BulkOut sends data to an endpoint and says how much the device took, also
	// where it took less than all before it failed.
	BulkOut(ctx context.Context, endpoint uint8, data []byte, timeout time.Duration) (int, error)
	// ClearHalt makes an endpoint that stalled usable again.
	ClearHalt(endpoint uint8) error
	// Close gives the device back.
	Close() error
}

// Files is what a board boots from: a boot partition, or what stands for one.
type Files interface {
	// Open gives the content of a file by its path from the partition's root,
	// without a leading slash: "overlays/dwc2.dtbo". The error of a file that is
	// not there is [io/fs.ErrNotExist]. The content is read while the device
	// takes it, never as a whole.
	Open(name string) (*io.SectionReader, error)
}

// Bootcode is the file that the boot ROM is given. It comes from [Files] as all
// others do.
const Bootcode = "bootcode.bin"

// USB identities of boards that wait for their files.
const (
	Vendor         = 0x0a5c // Broadcom
	ProductBCM2708 = 0x2763 // BCM2835: Zero, Zero W
	ProductBCM2710 = 0x2764 // BCM2837: Zero 2 W
)

// Bootable says whether a device with these ids is a board that this package
// serves.
func Bootable(vendor, product uint16) bool {
	return vendor == Vendor && (product == ProductBCM2708 || product == ProductBCM2710)
}

// A Stage is how far a board that boots over USB has come.
type Stage int

// The stages.
const (
	StageROM   Stage = iota + 1 // the boot ROM waits for bootcode.bin
	StageFiles                  // bootcode.bin or the firmware asks for files
)

// String names the stage in one word.
func (s Stage) String() string {
	switch s {
	case StageROM:
		return "rom"
	case StageFiles:
		return "files"
	}
	return "unknown"
}

// StageOf tells the stage by iSerialNumber of the device descriptor, which is the
// index of a string and not a serial number: byte 16 of the descriptor.
func StageOf(serialIndex uint8) Stage {
	if serialIndex == 0 || serialIndex == 3 {
		return StageROM
	}
	return StageFiles
}

// Endpoint tells which interface is to be claimed and where bulk data goes, by the
// number of interfaces (bNumInterfaces) of the device's configuration.
func Endpoint(interfaces int) (number, endpoint uint8) {
	if interfaces <= 1 {
		return 0, 1
	}
	return 1, 3
}

// A Device is one attachment of a board.
type Device struct {
	Transport  Transport
	Stage      Stage
	Interfaces int // bNumInterfaces, for [Endpoint]
	// Again says that this port's boot ROM was given bootcode.bin just now. Where
	// the device then shows up as a boot ROM once more, it may be that the host
	// did not notice that it had detached; so it is first asked whether it wants a
	// file, and only then given bootcode.bin again. A [Port] sets this by itself.
	Again bool
}

// Package nbdlink gives the kernel's NBD client its connections, by generic
// netlink: a device that is attached so outlives the process that did it, and
// its connection can be replaced while requests wait.
//
// Source: the kernel's include/uapi/linux/nbd-netlink.h, genetlink.h and
// drivers/block/nbd.c.
package nbdlink

import (
	"errors"
	"fmt"
	"time"

	"hatchery/netboot/node/nl"
)

// Family is the generic netlink family's name, Group its multicast group's.
const (
	Family = "nbd"
	Group  = "nbd_mc_group"
)

// The kernel's numbers.
const (
	familyControl  = 16
	controlGet     = 3
	controlVersion = 1
	attrFamilyID   = 1
	attrFamilyName = 2
	attrGroups     = 7
	attrGroupName  = 1
	attrGroupID    = 2

	version        = 1
	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdLinkDead    = 4
	cmdStatus      = 5

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrSockets     = 7
	attrDeadConn    = 8
	attrDeviceList  = 9
	socketItem      = 1
	socketFD        = 1
	deviceItem      = 1
	deviceIndex     = 1
	deviceConnected = 2
)

// A Device is what the kernel is told of one, nbdN.
type Device struct {
	Index     uint32
	Size      int64
	BlockSize int
	Flags     uint16 // the server's
	// Timeout is how long a request may take before its connection counts as
	// dead: unset, the kernel waits for an answer for ever.
	Timeout time.Duration
	// DeadConnection is for how long requests wait for a new connection. Then
	// they fail, and the file system with them.
	DeadConnection time.Duration
}

// ErrNoFamily: this kernel has no NBD, or its module is not loaded.
var ErrNoFamily = errors.New("the kernel knows no network block devices: module nbd is not loaded")

// header is a generic netlink message's.
func header(command, version uint8) []byte { return []byte{command, version, 0, 0} }

// FamilyRequest asks for a family by name.
func FamilyRequest(name string) []byte {
	return nl.PutString(header(controlGet, controlVersion), attrFamilyName, name)
}

// ParseFamily reads the answer: the family's id and the group's, 0 where it has
// no such group.
func ParseFamily(data []byte, group string) (family uint16, groupID uint32, err error) {
	if len(data) < 4 {
		return 0, 0, fmt.Errorf("%w: no generic netlink header", nl.ErrMalformed)
	}
	attrs, err := nl.Attrs(data[4:])
	if err != nil {
		return 0, 0, err
	}
	for _, a := range attrs {
		switch a.Type {
		case attrFamilyID:
			family, _ = a.Uint16()
		case attrGroups:
			groups, err := nl.Attrs(a.Data)
			if err != nil {
				return 0, 0, err
			}
			for _, g := range groups {
				fields, err := nl.Attrs(g.Data)
				if err != nil {
					return 0, 0, err
				}
				name, id := "", uint32(0)
				for _, f := range fields {
					switch f.Type {
					case attrGroupName:
						name = f.String()
					case attrGroupID:
						id, _ = f.Uint32()
					}
				}
				if name == group {
					groupID = id
				}
			}
		}
	}
	if family == 0 {
		return 0, 0, fmt.Errorf("%w: a family without an id", nl.ErrMalformed)
	}
	return family, groupID, nil
}

// ConnectRequest attaches a device by an open connection.
func ConnectRequest(d Device, socket int) []byte {
	b := header(cmdConnect, version)
	b = nl.PutUint32(b, attrIndex, d.Index)
	b = nl.PutUint64(b, attrSize, uint64(d.Size))
	b = nl.PutUint64(b, attrBlockSize, uint64(d.BlockSize))
	b = nl.PutUint64(b, attrTimeout, uint64(d.Timeout/time.Second))
	b = nl.PutUint64(b, attrDeadConn, uint64(d.DeadConnection/time.Second))
	b = nl.PutUint64(b, attrServerFlags, uint64(d.Flags))
	return putSocket(b, socket)
}

// ReconfigureRequest replaces a device's dead connection. What it was attached
// with stays.
func ReconfigureRequest(index uint32, socket int) []byte {
	b := nl.PutUint32(header(cmdReconfigure, version), attrIndex, index)
	return putSocket(b, socket)
}

// DisconnectRequest detaches a device.
func DisconnectRequest(index uint32) []byte {
	return nl.PutUint32(header(cmdDisconnect, version), attrIndex, index)
}

// StatusRequest asks whether a device is attached.
func StatusRequest(index uint32) []byte {
	return nl.PutUint32(header(cmdStatus, version), attrIndex, index)
}

func putSocket(b []byte, socket int) []byte {
	item := nl.PutUint32(nil, socketFD, uint32(socket))
	return nl.PutNested(b, attrSockets, nl.PutNested(nil, socketItem, item))
}

// ParseStatus reads the answer to a StatusRequest: whether the device is
// attached. The kernel says so too while its connection is dead.
func ParseStatus(data []byte, index uint32) (attached bool, err error) {
	if len(data) < 4 {
		return false, fmt.Errorf("%w: no generic netlink header", nl.ErrMalformed)
	}
	attrs, err := nl.Attrs(data[4:])
	if err != nil {
		return false, err
	}
	for _, a := range attrs {
		if a.Type != attrDeviceList {
			continue
		}
		items, err := nl.Attrs(a.Data)
		if err != nil {
			return false, err
		}
		for _, item := range items {
			fields, err := nl.Attrs(item.Data)
			if err != nil {
				return false, err
			}
			at, connected := uint32(0), false
			for _, f := range fields {
				switch f.Type {
				case deviceIndex:
					at, _ = f.Uint32()
				case deviceConnected:
					connected = len(f.Data) == 1 && f.Data[0] != 0
				}
			}
			if at == index && item.Type == deviceItem {
				return connected, nil
			}
		}
	}
	return false, nil
}

// ParseDead says whether a message tells that a device's connection is dead.
func ParseDead(data []byte, index uint32) bool {
	if len(data) < 4 || data[0] != cmdLinkDead {
		return false
	}
	attrs, err := nl.Attrs(data[4:])
	if err != nil {
		return false
	}
	for _, a := range attrs {
		if at, ok := a.Uint32(); ok && a.Type == attrIndex {
			return at == index
		}
	}
	return false
}

// BlockSize is the block size that a device is attached with. A partitioned
// disk has sectors of 512 bytes, whatever its file systems have: its table and
// FAT count in them, and the kernel takes a device's block for the unit. A file
// system on the bare device can have larger ones, up to its own. least is what
// the server takes.
func BlockSize(partitioned bool, fileSystem int, least uint32) (int, error) {
	const sector = 512
	size := sector
	if !partitioned {
		for _, s := range []int{1024, 2048, 4096} {
			if s <= fileSystem {
				size = s
			}
		}
	}
	if uint32(size) < least {
		return 0, fmt.Errorf("the server takes blocks of %d bytes at least, and this disk needs %d: its export must take smaller ones", least, size)
	}
	return size, nil
}

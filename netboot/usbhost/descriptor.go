package usbhost

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes and types of descriptors, USB 2.0 section 9.6.
const (
	deviceDescriptor = 1
	configDescriptor = 2
	deviceSize       = 18
	configSize       = 9
	descriptorsMax   = 64 << 10 // of sysfs's file, as much as is looked at
)

var errDescriptor = errors.New("the device's descriptors make no sense")

// descriptors is what is wanted of a device's descriptors.
type descriptors struct {
	vendor, product uint16
	class           uint8
	serialIndex     uint8
	interfaces      int // of the first configuration; 0: there is none
}

// parseDescriptors reads the file descriptors of sysfs, or what is read from a
// device node: the device descriptor, then each configuration's.
func parseDescriptors(b []byte) (descriptors, error) {
	if len(b) < deviceSize || b[0] < deviceSize || b[1] != deviceDescriptor {
		return descriptors{}, fmt.Errorf("%w: no device descriptor", errDescriptor)
	}
	d := descriptors{
		vendor:      binary.LittleEndian.Uint16(b[8:]),
		product:     binary.LittleEndian.Uint16(b[10:]),
		class:       b[4],
		serialIndex: b[16],
	}
	if b = b[min(int(b[0]), len(b)):]; len(b) == 0 {
		return d, nil
	}
	if len(b) < configSize || b[0] < configSize || b[1] != configDescriptor {
		return descriptors{}, fmt.Errorf("%w: no configuration descriptor", errDescriptor)
	}
	d.interfaces = int(b[4])
	return d, nil
}

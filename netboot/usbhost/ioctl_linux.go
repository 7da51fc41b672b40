package usbhost

import "unsafe"

// The structures of include/uapi/linux/usbdevice_fs.h, whose sizes, and with them
// the numbers of the calls, depend on the size of a pointer.

// urb is struct usbdevfs_urb without packets.
type urb struct {
	kind          uint8
	endpoint      uint8
	status        int32
	flags         uint32
	buffer        uintptr // what the kernel reads or writes: pinned
	bufferLength  int32
	actualLength  int32
	startFrame    int32
	packets       int32
	errorCount    int32
	signal        uint32
	callerContext uintptr
}

// disconnectClaim is struct usbdevfs_disconnect_claim.
type disconnectClaim struct {
	iface  uint32
	flags  uint32
	driver [256]byte
}

// forInterface is struct usbdevfs_ioctl.
type forInterface struct {
	iface int32
	code  int32
	data  uintptr
}

// Directions of a call's argument, include/uapi/asm-generic/ioctl.h: x86 and ARM
// have the same.
const (
	toKernel   = 1 // _IOW
	fromKernel = 2 // _IOR
)

func ioctlNumber(direction, number, size uintptr) uintptr {
	return direction<<30 | size<<16 | 'U'<<8 | number
}

var (
	ioctlSubmit          = ioctlNumber(fromKernel, 10, unsafe.Sizeof(urb{}))
	ioctlDiscard         = ioctlNumber(0, 11, 0)
	ioctlReapNoDelay     = ioctlNumber(toKernel, 13, unsafe.Sizeof(uintptr(0)))
	ioctlClaim           = ioctlNumber(fromKernel, 15, 4)
	ioctlRelease         = ioctlNumber(fromKernel, 16, 4)
	ioctlForInterface    = ioctlNumber(toKernel|fromKernel, 18, unsafe.Sizeof(forInterface{}))
	ioctlClearHalt       = ioctlNumber(fromKernel, 21, 4)
	ioctlDisconnect      = ioctlNumber(0, 22, 0)
	ioctlDisconnectClaim = ioctlNumber(fromKernel, 27, unsafe.Sizeof(disconnectClaim{}))
)

// The sizes are wrong nowhere that this compiles: 44 bytes and 12 with pointers of
// 4 bytes, 56 and 16 with such of 8.
var (
	_ [44 + unsafe.Sizeof(uintptr(0))/8*12]byte = [unsafe.Sizeof(urb{})]byte{}
	_ [12 + unsafe.Sizeof(uintptr(0))/8*4]byte  = [unsafe.Sizeof(forInterface{})]byte{}
	_ [264]byte                                 = [unsafe.Sizeof(disconnectClaim{})]byte{}
)

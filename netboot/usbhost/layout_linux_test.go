package usbhost

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The numbers are what C compilers make of include/uapi/linux/usbdevice_fs.h.
func TestLayout(t *testing.T) {
	wide := unsafe.Sizeof(uintptr(0)) == 8
	pick := func(narrow, wider uintptr) uintptr {
		if wide {
			return wider
		}
		return narrow
	}
	for _, test := range []struct {
		what      string
		got, want uintptr
	}{
		{"sizeof usbdevfs_urb", unsafe.Sizeof(urb{}), pick(44, 56)},
		{"status of a urb", unsafe.Offsetof(urb{}.status), 4},
		{"buffer of a urb", unsafe.Offsetof(urb{}.buffer), pick(12, 16)},
		{"buffer_length of a urb", unsafe.Offsetof(urb{}.bufferLength), pick(16, 24)},
		{"actual_length of a urb", unsafe.Offsetof(urb{}.actualLength), pick(20, 28)},
		{"usercontext of a urb", unsafe.Offsetof(urb{}.callerContext), pick(40, 48)},
		{"sizeof usbdevfs_disconnect_claim", unsafe.Sizeof(disconnectClaim{}), 264},
		{"sizeof usbdevfs_ioctl", unsafe.Sizeof(forInterface{}), pick(12, 16)},
		{"USBDEVFS_SUBMITURB", ioctlSubmit, pick(0x802c550a, 0x8038550a)},
		{"USBDEVFS_DISCARDURB", ioctlDiscard, 0x550b},
		{"USBDEVFS_REAPURBNDELAY", ioctlReapNoDelay, pick(0x4004550d, 0x4008550d)},
		{"USBDEVFS_CLAIMINTERFACE", ioctlClaim, 0x8004550f},
		{"USBDEVFS_RELEASEINTERFACE", ioctlRelease, 0x80045510},
		{"USBDEVFS_IOCTL", ioctlForInterface, pick(0xc00c5512, 0xc0105512)},
		{"USBDEVFS_CLEAR_HALT", ioctlClearHalt, 0x80045515},
		{"USBDEVFS_DISCONNECT", ioctlDisconnect, 0x5516},
		{"USBDEVFS_DISCONNECT_CLAIM", ioctlDisconnectClaim, 0x8108551b},
	} {
		if test.got != test.want {
			t.Errorf("%s is %#x, wanted %#x", test.what, test.got, test.want)
		}
	}
}

func TestExplain(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.ENODEV: "has left", unix.ESHUTDOWN: "has left", unix.ENOENT: "has left",
		unix.EPIPE: "stall", unix.ETIMEDOUT: "does not answer", unix.EPROTO: "transfer failed", unix.EILSEQ: "transfer failed",
		unix.EBUSY: "busy", unix.EACCES: "denied",
	} {
		if got := explain(fmt.Errorf("doing it: %w", errno)).Error(); !strings.Contains(got, want) {
			t.Errorf("%v is %q, wanted %q", errno, got, want)
		}
	}
	if explain(nil) != nil {
		t.Error("no error is one")
	}
}

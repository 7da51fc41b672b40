// Package usbhost is the controller's side of the USB bus: which devices hang
// where (sysfs), when that changes (uevents, with a poll behind them), transfers to
// a board that boots (usbfs, without libusb), and which slot of the HAT a USB path
// belongs to.
//
// A slot is told by where it is plugged in and by nothing else: a Zero that boots
// over USB has no serial number and no MAC address yet. Slots hang off the four
// ports of the HAT's hub, in an order that differs between versions of the HAT
// ([Wiring]).
//
// Sources: the kernel's Documentation/ABI/testing/sysfs-bus-usb,
// include/uapi/linux/usbdevice_fs.h, lib/kobject_uevent.c; clusterhat-image's
// clusterctrl for the HAT.
package usbhost

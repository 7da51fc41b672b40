// Package usbboot serves Raspberry Pis that boot from their USB device port:
// the Pi Zeros of a HAT that have no card.
//
// Such a board shows up twice. First as its boot ROM, which takes one file,
// bootcode.bin, and detaches; then bootcode.bin and the firmware that it loads
// (start.elf) come back and ask for the files of a boot partition by name, until
// the kernel starts and the device leaves. [Serve] does one such attachment, over
// a [Transport], which package usbhost has for Linux and package usbboottest for
// tests. A [Port] remembers between the attachments of one USB port. Nothing is
// shared between attachments, so any number are served side by side.
//
// # The protocol
//
// Lengths are announced by the host: a vendor control transfer to the device
// (request type 0x40, request 0, no data) whose value and index are the low and
// high half of the number of bytes that follow on the bulk endpoint. What the
// device has to say is read by a vendor control transfer from it (0xC0, request 0,
// value and index again the length).
//
// Boot ROM: 24 bytes (length of bootcode.bin as a little-endian 32-bit number, 20
// bytes of signature, zero), then bootcode.bin, each announced; then 4 bytes are
// read, a status, 0 for success.
//
// File server: messages of 260 bytes are read, a little-endian 32-bit command and a
// name of 256 bytes that ends with a zero byte. Command 0 asks for a file's size,
// which is answered by an announcement alone; 1 for its content, announced and
// sent; a file that is not there has size 0. Command 2, or an empty name, is the
// end; an empty name is answered by announcing 0.
//
// Which of the two is there says the device descriptor: iSerialNumber 0 or 3 is the
// boot ROM. A device with one interface takes bulk data on endpoint 1 of interface
// 0, others on endpoint 3 of interface 1.
//
// Source: raspberrypi/usbboot, main.c.
package usbboot

// Package usbboottest is a fake Pi Zero for tests of USB booting: a BCM2835 (or
// BCM2837) behind usbboot's transport, which behaves as its boot ROM, bootcode.bin
// and start.elf do. It asks for the files that config.txt implies, in the
// firmware's order, keeps what it was sent, and can be made to fail at any
// transfer.
//
// It is written from the protocol and from logs of real boards, not from package
// usbboot's code, and judges the server: whatever does not follow the protocol to
// the letter (an announcement too many, a length that does not agree, data for the
// wrong endpoint) is refused and remembered ([Board.Err]).
//
// Sources: raspberrypi/usbboot's main.c for the protocol; the order of the files
// from the logs in raspberrypi/usbboot issues 10, 13 and 370 and balena-io/etcher
// pull request 1797; Raspberry Pi's documentation of config.txt.
package usbboottest

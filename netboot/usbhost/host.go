package usbhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A Host is a machine's USB. The zero Host is this machine's.
type Host struct {
	Sys  string // where sysfs is mounted; "": /sys
	Proc string // where proc is mounted; "": /proc
	Dev  string // the folder of device nodes; "": /dev/bus/usb

	// Poll is how often the bus is listed though no uevent came; 0: every second,
	// four times a second while there are no uevents.
	Poll time.Duration
	// Uevents gives a word for each change on the bus until ctx ends; nil: the
	// kernel's, [KernelUevents]. An error means that there are none, and the bus
	// is polled.
	Uevents func(ctx context.Context) (<-chan struct{}, error)
	// Log hears what cannot be told otherwise; may be nil.
	Log *slog.Logger
}

func (h *Host) log() *slog.Logger {
	if h.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Log
}

func or(s, standard string) string {
	if s == "" {
		return standard
	}
	return s
}

func (h *Host) sys() string  { return or(h.Sys, "/sys") }
func (h *Host) proc() string { return or(h.Proc, "/proc") }
func (h *Host) dev() string  { return or(h.Dev, "/dev/bus/usb") }

// Devices lists what hangs on the bus, sorted by path, the busses' own hubs left
// out. Devices that go away meanwhile, or about which sysfs says nothing sensible,
// are not listed. A machine without USB has none.
func (h *Host) Devices() ([]Device, error) {
	dir := filepath.Join(h.sys(), "bus", "usb", "devices")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the USB devices: %w", err)
	}
	var devices []Device
	for _, entry := range entries {
		if !validPath(entry.Name()) {
			continue
		}
		if d, ok := readDevice(filepath.Join(dir, entry.Name())); ok {
			devices = append(devices, d)
		}
	}
	slices.SortFunc(devices, func(a, b Device) int { return strings.Compare(a.Path, b.Path) })
	return devices, nil
}

// readDevice reads a device's folder in sysfs.
func readDevice(dir string) (Device, bool) {
	d := Device{Path: filepath.Base(dir)}
	raw, err := attribute(dir, "descriptors", descriptorsMax)
	if err != nil {
		return d, false
	}
	parsed, err := parseDescriptors(raw)
	if err != nil {
		return d, false
	}
	d.Vendor, d.Product = parsed.vendor, parsed.product
	d.Class, d.SerialIndex = parsed.class, parsed.serialIndex
	var ok bool
	if d.Bus, ok = decimal(dir, "busnum"); !ok {
		return d, false
	}
	if d.Address, ok = decimal(dir, "devnum"); !ok {
		return d, false
	}
	// Empty while the device is not configured: then what its first configuration
	// will have.
	if d.Interfaces, ok = decimal(dir, "bNumInterfaces"); !ok {
		d.Interfaces = parsed.interfaces
	}
	if d.Hub() {
		d.Ports, _ = decimal(dir, "maxchild")
	}
	d.Name, d.Serial = label(dir, "product"), label(dir, "serial")
	return d, true
}

// attribute reads a file of sysfs, at most limit bytes of it.
func attribute(dir, name string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// decimal reads a number; sysfs pads some of them with spaces.
func decimal(dir, name string) (int, bool) {
	raw, err := attribute(dir, name, 64)
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	return n, err == nil && n >= 0 && n <= 1<<16
}

// label reads a text that the device has given itself.
func label(dir, name string) string {
	raw, err := attribute(dir, name, 256)
	if err != nil {
		return ""
	}
	text := strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.TrimSpace(string(raw)))
	return strings.ToValidUTF8(text[:min(len(text), 126)], "")
}

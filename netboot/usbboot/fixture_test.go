package usbboot_test

import (
	"bytes"
	"context"
	"maps"
	"strings"
	"testing"

	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
)

// partition is a boot partition of small files, some of them longer than a bulk
// transfer and than what is read at once, some exactly as long.
func partition(extra map[string]string) usbboottest.Files {
	texts := map[string]string{
		"config.txt":  "initramfs hatchery-initramfs.img followkernel\ndtoverlay=dwc2,dr_mode=peripheral\n",
		"cmdline.txt": "console=serial0,115200 root=PARTUUID=12345678-02 hatchery.slot=2\n",
	}
	maps.Copy(texts, extra)
	return usbboottest.Partition(7, map[string]int{
		usbboot.Bootcode: 52_480, "start.elf": 300_000, "fixup.dat": 7_300, "start_cd.elf": 16_384, "fixup_cd.dat": 512,
		"start_x.elf": 40_000, "fixup_x.dat": 100,
		"kernel.img": 200_001, "kernel7.img": 65_536, "kernel8.img": 65_537,
		"hatchery-initramfs.img": 131_072, "initramfs": 900, "initramfs8": 901,
		"bcm2708-rpi-zero.dtb": 2_000, "bcm2708-rpi-zero-w.dtb": 2_001, "bcm2710-rpi-zero-2-w.dtb": 2_002,
		"overlays/dwc2.dtbo": 801, "overlays/vc4-kms-v3d.dtbo": 1, "overlays/overlay_map.dtb": 300,
	}, texts)
}

// boot boots a board to its end through a Port, as a controller does.
func boot(ctx context.Context, b *usbboottest.Board, files usbboot.Files, o usbboot.Options) ([]usbboot.Result, error) {
	var port usbboot.Port
	return b.Boot(ctx, func(ctx context.Context, d usbboot.Device) (usbboot.Result, error) {
		defer d.Transport.Close()
		return port.Serve(ctx, d, files, o)
	})
}

// checkReceived compares what the board holds with the files, byte for byte.
func checkReceived(t testing.TB, b *usbboottest.Board, files usbboottest.Files) {
	t.Helper()
	for name, got := range b.Received() {
		if !bytes.Equal(got, files[name]) {
			t.Errorf("%s arrived with %d bytes that are not the file's %d", name, len(got), len(files[name]))
		}
	}
}

func transcript(results []usbboot.Result) usbboot.Transcript {
	var all usbboot.Transcript
	for _, r := range results {
		all = append(all, r.Transcript...)
	}
	return all
}

// outline is a transcript without digests.
func outline(t usbboot.Transcript) string {
	var b strings.Builder
	for line := range strings.Lines(t.String()) {
		line, _, _ = strings.Cut(strings.TrimSuffix(line, "\n"), " sha256:")
		b.WriteString(line + "\n")
	}
	return b.String()
}

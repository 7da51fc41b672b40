package imagebuilder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/bootpart"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"
	"hatchery/internal/spec"
	"hatchery/netboot/bootfiles"
	"hatchery/overlays"
)

// hatOf is what the controller is told of its HAT.
func hatOf(c *spec.Cluster) (h nodefile.HAT) {
	if c.HAT.Version != "auto" {
		h.Version = c.HAT.Version
	}
	if c.HAT.Hub != "auto" {
		h.Hub = c.HAT.Hub
	}
	if c.HAT.PowerOn == nodefile.PowerOnNone {
		h.PowerOn = c.HAT.PowerOn
	}
	return h
}

// serveOf says who reaches the controller's page.
func serveOf(c *spec.Cluster) (s nodefile.Serve) {
	if c.Serve.Listen == nodefile.ListenLAN {
		s.Listen = c.Serve.Listen
	}
	return s
}

// pageNames are the names and addresses by which browsers reach the controller's
// page: its own, those of mDNS and of the cluster's domain, and by a tunnel.
func pageNames(c *spec.Cluster) (names []string, addrs []netip.Addr) {
	host := strings.ToLower(c.Controller.Hostname)
	names = []string{host, host + ".local"}
	if c.Domain != "" && c.Domain != "local" {
		names = append(names, host+"."+strings.ToLower(c.Domain))
	}
	names = append(names, "localhost")
	addrs = []netip.Addr{clusterctrl.ControllerAddr(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if c.Controller.Address.IsValid() {
		addrs = append(addrs, c.Controller.Address.Addr())
	}
	return names, addrs
}

// netbootOf is what the controller gives to slots without cards.
func netbootOf(c *spec.Cluster) nodefile.Netboot {
	n := nodefile.Netboot{Disk: c.Netboot.Disk, Quota: c.Netboot.Quota}
	for _, f := range c.Netboot.Firmware {
		if n.Firmware == nil {
			n.Firmware = map[string]string{}
		}
		n.Firmware[f.Name] = f.SHA256
	}
	for _, s := range c.Slots {
		if s.USB != "" {
			if n.Ports == nil {
				n.Ports = map[int]string{}
			}
			n.Ports[s.Number] = s.USB
		}
	}
	return n
}

// maxFirmware is more than any file of the firmware has.
const maxFirmware = 32 << 20

// readFirmwares reads the firmware files that cluster.yaml pins.
func readFirmwares(c *spec.Cluster) ([]firmware, error) {
	var files []firmware
	for _, f := range c.Netboot.Firmware {
		content, err := readFirmware(f.File)
		if err != nil {
			return nil, &InputError{fmt.Errorf("netboot.firmware.%s: %w", f.Name, err)}
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != f.SHA256 {
			return nil, &InputError{fmt.Errorf("netboot.firmware.%s: %s has the SHA-256 digest %x, and cluster.yaml says %s: it is another file, or a damaged one", f.Name, f.File, sum, f.SHA256)}
		}
		files = append(files, firmware{f, content})
	}
	return files, nil
}

// firmware is a pinned file that was read.
type firmware struct {
	spec.Firmware
	content []byte
}

// firmwareEntries are the pinned firmware files, for the controller's image.
func firmwareEntries(files []firmware) []overlays.Entry {
	var entries []overlays.Entry
	for _, f := range files {
		entries = append(entries, overlays.Entry{Path: path.Join(nodefile.FirmwareDir, f.Name), Mode: 0o644, Content: f.content, From: f.File})
	}
	return entries
}

// netboot is how a slot's image boots without a card, nil where it boots from
// one.
func (w ways) netboot(t spec.Target, files []firmware, cache *bootfiles.Cache) *bootfiles.Options {
	if w.programs == nil || !t.Cardless() {
		return nil
	}
	o := &bootfiles.Options{
		Slot: t.Slot, Mode: t.Root, Model: t.Model, Cache: cache,
		NodeInit: func(architecture string) ([]byte, error) { return w.programs(NodeInitProgram, architecture) },
	}
	for _, f := range files {
		if o.Firmware == nil {
			o.Firmware = map[string]bootfiles.Firmware{}
		}
		o.Firmware[f.Name] = bootfiles.Firmware{Content: f.content, Digest: digest.NewDigestFromEncoded(digest.SHA256, f.SHA256)}
	}
	return o
}

// writeInitramfs puts what a slot without a card starts of into its boot
// partition, and sees that everything is there that its firmware will ask for.
func (e *edits) writeInitramfs(ctx context.Context, d device, epoch time.Time) error {
	o := *e.netboot
	o.Disk, o.Size = d, d.Size()
	content, err := bootfiles.MakeInitramfs(ctx, o)
	if err != nil {
		return netbootError(ctx, err)
	}
	p := e.table.Partition(parttable.Boot)
	boot, err := bootpart.Open(d, p.Start, p.Size)
	if err != nil {
		return err
	}
	boot.SetTime(epoch)
	if err := boot.WriteFile(bootfiles.InitramfsName, content); err != nil {
		return err
	}
	if err := boot.Close(); err != nil {
		return err
	}
	_, err = bootfiles.Open(ctx, o)
	return netbootError(ctx, err)
}

// netbootError is an error of what an image boots of: the image's fault, where
// nobody broke it off.
func netbootError(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return &InputError{err}
}

func readFirmware(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFirmware+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxFirmware {
		return nil, fmt.Errorf("%s is larger than 32 MiB: no file of the firmware is", name)
	}
	return content, nil
}

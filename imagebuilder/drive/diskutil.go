package drive

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// diskutil is macOS's view of disks, by its programs diskutil(8) and ioreg(8).
type diskutil struct{ run runner }

// Where macOS has them: one of another's PATH would be run with root's rights.
const (
	diskutilPath = "/usr/sbin/diskutil"
	ioregPath    = "/usr/sbin/ioreg"
	hdiutilPath  = "/usr/bin/hdiutil"
)

// macDisk is the name of a whole disk, macNode that of whatever lies on one:
// disk4, disk4s1, disk3s1s1; with an r before it it is the one past the cache.
var (
	macDisk = regexp.MustCompile(`^disk[0-9]+$`)
	macNode = regexp.MustCompile(`^r?(disk[0-9]+)((?:s[0-9]+)*)$`)
)

func (u diskutil) plist(ctx context.Context, name string, args ...string) (any, error) {
	out, err := u.run(ctx, name, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot see this machine's disks: %w", err)
	}
	value, err := parsePlist(out)
	if err != nil {
		return nil, fmt.Errorf("cannot see this machine's disks: %s: %w", name, err)
	}
	return value, nil
}

// A macOverview is `diskutil list -plist`, by whole disks.
type macOverview struct {
	disks  []string
	made   map[string]bool // made of others: APFS containers
	mounts map[string][]Mount
}

func (u diskutil) overview(ctx context.Context) (*macOverview, error) {
	value, err := u.plist(ctx, diskutilPath, "list", "-plist")
	if err != nil {
		return nil, err
	}
	top, _ := value.(map[string]any)
	o := &macOverview{made: map[string]bool{}, mounts: map[string][]Mount{}}
	entries := dict(top).dicts("AllDisksAndPartitions")
	for _, entry := range entries {
		name := entry.text("DeviceIdentifier")
		if !macDisk.MatchString(name) {
			continue
		}
		o.disks = append(o.disks, name)
		lies := []string{name}
		if stores := entry.dicts("APFSPhysicalStores"); len(stores) > 0 {
			o.made[name] = true
			for _, store := range stores {
				if m := macNode.FindStringSubmatch(store.text("DeviceIdentifier")); m != nil {
					lies = append(lies, m[1])
				}
			}
		}
		put := func(device, place string) {
			if place == "" {
				return
			}
			mount := Mount{Device: "/dev/" + device, Place: place, Casual: strings.HasPrefix(place, "/Volumes/")}
			for _, disk := range lies {
				if !slices.Contains(o.mounts[disk], mount) {
					o.mounts[disk] = append(o.mounts[disk], mount)
				}
			}
		}
		volumes := append([]dict{entry}, entry.dicts("Partitions")...)
		for _, volume := range append(volumes, entry.dicts("APFSVolumes")...) {
			put(volume.text("DeviceIdentifier"), volume.text("MountPoint"))
			for _, snapshot := range volume.dicts("MountedSnapshots") {
				put(snapshot.text("SnapshotBSD"), snapshot.text("SnapshotMountPoint"))
			}
		}
	}
	if len(o.disks) == 0 {
		return nil, errors.New("cannot see this machine's disks: diskutil lists none")
	}
	return o, nil
}

// A macMedium is what the I/O registry knows of a disk.
type macMedium struct {
	id     int64 // a new one for each card that is put in
	serial string
}

// media are those of the I/O registry, by their disks' names; none where ioreg
// does not tell.
func (u diskutil) media(ctx context.Context) map[string]macMedium {
	all := map[string]macMedium{}
	var walk func(entry dict, serial string, depth int)
	walk = func(entry dict, serial string, depth int) {
		if depth > plistDepth {
			return
		}
		for _, key := range []string{"USB Serial Number", "kUSBSerialNumberString"} {
			if own := entry.text(key); own != "" {
				serial = own
			}
		}
		if name := entry.text("BSD Name"); macDisk.MatchString(name) {
			medium := all[name]
			if id := entry.size("IORegistryEntryID"); id != 0 {
				medium.id = id
			}
			if serial != "" {
				medium.serial = serial
			}
			all[name] = medium
		}
		for _, child := range entry.dicts("IORegistryEntryChildren") {
			walk(child, serial, depth+1)
		}
	}
	for _, args := range [][]string{{"-a", "-r", "-c", "IOMedia", "-d", "1"}, {"-a", "-r", "-l", "-c", "IOUSBHostDevice"}} {
		value, err := u.plist(ctx, ioregPath, args...)
		if err != nil {
			continue
		}
		entries, _ := value.([]any)
		for _, entry := range dictsOf(entries) {
			walk(entry, "", 0)
		}
	}
	return all
}

// macBuses are diskutil's names of them.
var macBuses = map[string]string{"USB": "usb", "Secure Digital": "mmc", "PCI-Express": "nvme", "PCI": "nvme", "SATA": "ata", "ATA": "ata", "SAS": "scsi"}

// drive describes a whole disk.
func (u diskutil) drive(ctx context.Context, name string, o *macOverview, media map[string]macMedium) (Drive, error) {
	value, err := u.plist(ctx, diskutilPath, "info", "-plist", name)
	if err != nil {
		return Drive{}, err
	}
	top, ok := value.(map[string]any)
	info := dict(top)
	if !ok || info.text("DeviceIdentifier") != name {
		return Drive{}, fmt.Errorf("diskutil does not describe %s", name)
	}
	bus := info.text("BusProtocol")
	d := Drive{
		Path: "/dev/" + name, Kind: Disk, Size: max(0, info.size("Size"), info.size("TotalSize")),
		Model: printable(info.text("MediaName")), Serial: printable(media[name].serial), Bus: macBuses[bus],
		Removable: info.flag("RemovableMedia") || info.flag("Removable"),
		Mounts:    o.mounts[name],
	}
	if d.Bus == "" {
		d.Bus = strings.ToLower(printable(bus))
	}
	if id := media[name].id; id > 0 {
		d.Sequence = uint64(id)
	}
	if writable, told := top["WritableMedia"].(bool); told {
		d.ReadOnly = !writable
	}
	if info.text("VirtualOrPhysical") == "Virtual" || bus == "Disk Image" {
		d.Kind = Loop
	}
	for _, m := range d.Mounts {
		if m.Place == "/" || strings.HasPrefix(m.Place, "/System/Volumes/") || strings.HasPrefix(m.Place, "/private/") {
			d.System = true
		}
	}
	// Built into the machine and not to be taken out: where this macOS is on
	// what diskutil shows in a way that is not known here, it is on such a one.
	if info.flag("Internal") && !d.Removable && (info.flag("SystemImage") || !o.root()) {
		d.System = true
	}
	return d, nil
}

// root says whether the disk of / is known.
func (o *macOverview) root() bool {
	for _, mounts := range o.mounts {
		if slices.ContainsFunc(mounts, func(m Mount) bool { return m.Place == "/" }) {
			return true
		}
	}
	return false
}

func (u diskutil) list(ctx context.Context) ([]Drive, error) {
	o, err := u.overview(ctx)
	if err != nil {
		return nil, err
	}
	media := u.media(ctx)
	var all []Drive
	for _, name := range o.disks {
		if o.made[name] {
			continue
		}
		d, err := u.drive(ctx, name, o, media)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil || d.Kind != Disk {
			continue // pulled out just now, or a disk image
		}
		all = append(all, d)
	}
	return all, nil
}

// named gives the drive of a name below /dev, path being what the user called it.
func (u diskutil) named(ctx context.Context, path, name string) (Drive, error) {
	refuse := func(format string, args ...any) (Drive, error) {
		return Drive{}, &InputError{Path: path, Problem: shown(path) + fmt.Sprintf(format, args...)}
	}
	parts := macNode.FindStringSubmatch(name)
	if parts == nil {
		return refuse(" is no disk: `hatchery flash --list` shows the disks of this machine")
	}
	o, err := u.overview(ctx)
	if err != nil {
		return Drive{}, err
	}
	switch {
	case !slices.Contains(o.disks, parts[1]):
		return refuse(" is no disk of this machine any more: `hatchery flash --list` shows those that are")
	case o.made[parts[1]]:
		return refuse(" is a part of APFS, not a disk that a card can be: `hatchery flash --list` shows those that are")
	case parts[2] != "":
		return refuse(" is a partition: an image is for a whole disk, name /dev/%s", parts[1])
	}
	return u.drive(ctx, parts[1], o, u.media(ctx))
}

// attached are the disks as which an image file is attached, hdiutil(1).
func (u diskutil) attached(ctx context.Context, file string) ([]string, error) {
	value, err := u.plist(ctx, hdiutilPath, "info", "-plist")
	if err != nil {
		return nil, err
	}
	top, _ := value.(map[string]any)
	var all []string
	for _, image := range dict(top).dicts("images") {
		if image.text("image-path") != file {
			continue
		}
		for _, entity := range image.dicts("system-entities") {
			if name := strings.TrimPrefix(entity.text("dev-entry"), "/dev/"); macDisk.MatchString(name) {
				all = append(all, "attached as /dev/"+name)
			}
		}
	}
	return all, nil
}

package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// powershell is Windows' view of disks, by the cmdlets of its module Storage and
// by WMI (Win32_DiskDrive), which alone says what is removable.
type powershell struct{ run runner }

// query gives everything at once, for starting a PowerShell takes a second.
const query = `$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Console]::OutputEncoding = New-Object Text.UTF8Encoding $false
$disks = @(Get-Disk | Select-Object Number, FriendlyName, SerialNumber, UniqueId, Signature, Guid, @{n='BusType';e={[string]$_.BusType}}, Size, IsSystem, IsBoot, IsReadOnly)
$partitions = @(Get-Partition | Select-Object DiskNumber, PartitionNumber, AccessPaths, IsSystem, IsBoot)
$drives = @(Get-CimInstance Win32_DiskDrive | Select-Object Index, MediaType)
$pagefiles = @(Get-CimInstance Win32_PageFileUsage | Select-Object Name)
ConvertTo-Json -Depth 4 -Compress -InputObject @{disks = $disks; partitions = $partitions; drives = $drives; pagefiles = $pagefiles}`

// several is an array, which PowerShell writes as its single element, or not at
// all, where it has no more.
type several[T any] []T

func (s *several[T]) UnmarshalJSON(content []byte) error {
	content = bytes.TrimSpace(content)
	if bytes.Equal(content, []byte("null")) {
		return nil
	}
	if len(content) > 0 && content[0] == '[' {
		var all []*T // null is among them where there was nothing
		if err := json.Unmarshal(content, &all); err != nil {
			return err
		}
		for _, one := range all {
			if one != nil {
				*s = append(*s, *one)
			}
		}
		return nil
	}
	var one T
	if err := json.Unmarshal(content, &one); err != nil {
		return err
	}
	*s = append(*s, one)
	return nil
}

// loose is a text, which is a number, true or null in places.
type loose string

func (l *loose) UnmarshalJSON(content []byte) error {
	if bytes.Equal(content, []byte("null")) {
		return nil
	}
	var text string
	if err := json.Unmarshal(content, &text); err == nil {
		*l = loose(text)
		return nil
	}
	if len(content) > 0 && (content[0] == '{' || content[0] == '[') {
		return errors.New("it has an object where a text should be")
	}
	*l = loose(content)
	return nil
}

type winDisk struct {
	Number       *int
	FriendlyName loose
	SerialNumber loose
	UniqueID     loose `json:"UniqueId"`
	Signature    loose
	GUID         loose `json:"Guid"`
	BusType      loose
	Size         json.Number
	IsSystem     bool
	IsBoot       bool
	IsReadOnly   bool
}

type winAnswer struct {
	Disks      several[winDisk]
	Partitions several[struct {
		DiskNumber      int
		PartitionNumber int
		AccessPaths     several[loose]
		IsSystem        bool
		IsBoot          bool
	}]
	Drives several[struct {
		Index     int
		MediaType loose
	}]
	Pagefiles several[struct{ Name loose }]
}

// winBuses are the names and numbers of MSFT_Disk's BusType.
var winBuses = map[string]string{
	"USB": "usb", "7": "usb", "SD": "mmc", "12": "mmc", "MMC": "mmc", "13": "mmc", "NVMe": "nvme", "17": "nvme",
	"SATA": "ata", "11": "ata", "ATA": "ata", "3": "ata", "ATAPI": "ata", "2": "ata", "SCSI": "scsi", "1": "scsi", "SAS": "scsi", "10": "scsi",
	"RAID": "raid", "8": "raid", "Spaces": "spaces", "16": "spaces", "iSCSI": "iscsi", "9": "iscsi",
	"Virtual": "virtual", "14": "virtual", "File Backed Virtual": "file", "15": "file",
}

// winLetter is the root of a drive letter.
var winLetter = regexp.MustCompile(`^[A-Za-z]:\\?$`)

// parseDisks gives all disks of what PowerShell answered, those that are files
// (VHD) as Kind Loop.
func parseDisks(content []byte) ([]Drive, error) {
	var a winAnswer
	if err := json.Unmarshal(bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")), &a); err != nil {
		return nil, fmt.Errorf("cannot see this machine's disks: what PowerShell answered is not understood: %w", err)
	}
	var all []Drive
	for _, disk := range a.Disks {
		if disk.Number == nil || *disk.Number < 0 {
			continue
		}
		n := *disk.Number
		size, err := strconv.ParseInt(disk.Size.String(), 10, 64)
		if err != nil || size < 0 {
			size = 0
		}
		d := Drive{
			Path: `\\.\PhysicalDrive` + strconv.Itoa(n), Kind: Disk, Size: size,
			Model: printable(string(disk.FriendlyName)), Serial: printable(string(disk.SerialNumber)),
			Bus: winBuses[string(disk.BusType)], ReadOnly: disk.IsReadOnly, System: disk.IsSystem || disk.IsBoot,
			// The reader's, and what is on the card in it.
			Number: printable(string(disk.UniqueID) + " " + string(disk.Signature) + string(disk.GUID)),
		}
		if d.Bus == "" {
			d.Bus = strings.ToLower(printable(string(disk.BusType)))
		}
		for _, media := range a.Drives {
			if media.Index == n && strings.Contains(strings.ToLower(string(media.MediaType)), "removable") {
				d.Removable = true
			}
		}
		switch {
		case d.Bus == "file":
			d.Kind = Loop
		case d.Bus == "mmc" && !d.Removable:
			d.Bus = "emmc"
		}
		for _, p := range a.Partitions {
			if p.DiskNumber != n {
				continue
			}
			d.System = d.System || p.IsSystem || p.IsBoot
			for _, access := range p.AccessPaths {
				place := string(access)
				if place == "" || strings.HasPrefix(place, `\\?\`) {
					continue // a volume's own name, which is no place
				}
				d.Mounts = append(d.Mounts, Mount{Device: fmt.Sprintf("partition %d of disk %d", p.PartitionNumber, n), Place: place, Casual: winLetter.MatchString(place)})
				for _, file := range a.Pagefiles {
					if strings.HasPrefix(strings.ToUpper(string(file.Name)), strings.ToUpper(place)) {
						d.Users = append(d.Users, "the page file "+printable(string(file.Name)))
					}
				}
			}
		}
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b Drive) int { return byName(a.Path, b.Path) })
	return all, nil
}

func (p powershell) all(ctx context.Context) ([]Drive, error) {
	out, err := p.run(ctx, "powershell.exe", "-NoLogo", "-NoProfile", "-NonInteractive", "-Command", query)
	if err != nil {
		return nil, fmt.Errorf("cannot see this machine's disks: %w", err)
	}
	return parseDisks(out)
}

func (p powershell) list(ctx context.Context) ([]Drive, error) {
	all, err := p.all(ctx)
	return slices.DeleteFunc(all, func(d Drive) bool { return d.Kind != Disk }), err
}

// physical is a disk's own name, with or without what Windows puts before it.
var physical = regexp.MustCompile(`(?i)^(?:[\\/]{2}[.?][\\/])?PhysicalDrive([0-9]+)$`)

// named gives the drive that a user called path, found false where it is neither
// a disk nor a drive letter, and so may be a file.
func (p powershell) named(ctx context.Context, path string) (d Drive, found bool, err error) {
	refuse := func(format string, args ...any) (Drive, bool, error) {
		return Drive{}, true, &InputError{Path: path, Problem: shown(path) + fmt.Sprintf(format, args...)}
	}
	letter := strings.TrimPrefix(strings.TrimPrefix(path, `\\.\`), `\\?\`)
	disk := physical.FindStringSubmatch(path)
	if disk == nil && !winLetter.MatchString(letter) {
		return Drive{}, false, nil
	}
	all, err := p.all(ctx)
	if err != nil {
		return Drive{}, true, err
	}
	for _, d := range all {
		if disk != nil && strings.EqualFold(d.Path, `\\.\PhysicalDrive`+disk[1]) {
			return d, true, nil
		}
		for _, m := range d.Mounts {
			if disk == nil && strings.EqualFold(strings.TrimSuffix(m.Place, `\`), strings.TrimSuffix(letter, `\`)) {
				return refuse(" is a partition: an image is for a whole disk, name %s", d.Path)
			}
		}
	}
	return refuse(" is no disk of this machine: `hatchery flash --list` shows those that are")
}

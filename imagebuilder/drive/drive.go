// Package drive is the disks of this machine, as one who wants to write to a
// card sees them: which of them are cards, what speaks against writing to the
// others, and the way past mounts and caches onto one.
package drive

// A Drive is a disk of this machine, or a file that stands for one.
type Drive struct {
	Path      string  `json:"path"`             // /dev/sdb, /dev/disk4, \\.\PhysicalDrive2
	Kind      Kind    `json:"kind"`             //
	Model     string  `json:"model,omitempty"`  // with the maker's name: "SanDisk Ultra"
	Serial    string  `json:"serial,omitempty"` // what --force is told
	Bus       string  `json:"bus,omitempty"`    // usb, mmc, nvme, ata, virtio, …
	Size      int64   `json:"size"`             // bytes; 0: a reader without a card
	Removable bool    `json:"removable"`
	ReadOnly  bool    `json:"read_only"`
	System    bool    `json:"system"` // this machine runs from it
	Mounts    []Mount `json:"mounts,omitempty"`
	// Users are what else keeps it in use: swap, RAID, LVM, an encrypted volume.
	Users []string `json:"users,omitempty"`
	// Backing is the file, or the device, that a loop device shows, on Linux. Of
	// a loop device over another it is what the lowest one shows. Where that is
	// in another mount namespace, there is nothing, or another file, at the path.
	Backing string `json:"backing,omitempty"`

	// Number and Sequence tell whether it is still the same drive: Linux's
	// major:minor, a file's device and inode; and the number that Linux
	// (/sys/block/*/diskseq) gives every disk and every card put in, 0 where
	// the system has none.
	Number   string `json:"number,omitempty"`
	Sequence uint64 `json:"sequence,omitempty"`
}

// Kind tells disks from files.
type Kind string

// The kinds.
const (
	Disk Kind = "disk"
	Loop Kind = "loop" // a file that the system shows as a disk
	File Kind = "file"
)

// A Mount is a file system of the drive that is in use.
type Mount struct {
	Device string `json:"device"` // /dev/sdb1
	Place  string `json:"place"`  // /media/ann/bootfs
	// Casual: it lies where desktops mount what is plugged in, so that it may
	// be unmounted for a card that its user has agreed to write to.
	Casual bool `json:"casual"`
}

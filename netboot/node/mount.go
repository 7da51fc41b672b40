package node

import "strings"

// Flags of mount(2), which are the same on every system that this runs on.
const (
	mountReadOnly  = 1
	mountNoSuid    = 2
	mountNoDev     = 4
	mountNoExec    = 8
	mountSync      = 16
	mountDirSync   = 128
	mountNoAtime   = 1 << 10
	mountNoDirtime = 1 << 11
	mountRelatime  = 1 << 21
	mountStrict    = 1 << 24
	mountLazy      = 1 << 25
)

// MountFlags splits rootflags= into what mount(2) has flags for, and what is
// the file system's.
func MountFlags(text string, readOnly bool) (flags uintptr, data string) {
	if readOnly {
		flags = mountReadOnly
	}
	var rest []string
	for word := range strings.SplitSeq(text, ",") {
		switch word {
		case "", "defaults", "auto", "suid", "dev", "exec", "async", "atime", "diratime":
		case "ro":
			flags |= mountReadOnly
		case "rw":
			flags &^= mountReadOnly
		case "nosuid":
			flags |= mountNoSuid
		case "nodev":
			flags |= mountNoDev
		case "noexec":
			flags |= mountNoExec
		case "sync":
			flags |= mountSync
		case "dirsync":
			flags |= mountDirSync
		case "noatime":
			flags |= mountNoAtime
		case "nodiratime":
			flags |= mountNoDirtime
		case "relatime":
			flags |= mountRelatime
		case "strictatime":
			flags |= mountStrict
		case "lazytime":
			flags |= mountLazy
		default:
			rest = append(rest, word)
		}
	}
	return flags, strings.Join(rest, ",")
}

package release

import (
	"fmt"
	"io/fs"
	"strings"

	"hatchery/overlays"
)

// clock lays the file whose time stamp systemd-timesyncd starts the clock
// from. The service runs as a user of its own and has to own it.
func (e *editor) clock() {
	var uid, gid uint32
	if db, err := e.database(); err == nil { // else accounts has told of it
		if u, ok := db.Lookup("systemd-timesync"); ok {
			uid, gid = u.UID, u.GID
		}
	}
	e.write(overlays.Entry{Path: "/var/lib/systemd/timesync", Mode: fs.ModeDir | 0o755, UID: uid, GID: gid})
	e.write(overlays.Entry{Path: "/var/lib/systemd/timesync/clock", Mode: 0o644, UID: uid, GID: gid})
}

// fstab names the partitions by the image's disk id.
func (e *editor) fstab(bootPath string) {
	const file = "/etc/fstab"
	if e.target.DiskID == 0 {
		return
	}
	data, ok := e.read(file)
	if !ok {
		e.edits.Problems = append(e.edits.Problems, Problem{Message: "the image has no " + file, Remedy: "the boot partition will not be mounted on the target"})
		return
	}
	number := map[string]int{bootPath: 1, "/": 2}
	lines := strings.SplitAfter(string(data), "\n")
	for i, line := range lines {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || number[fields[1]] == 0 {
			continue
		}
		device := fmt.Sprintf("PARTUUID=%08x-%02d", e.target.DiskID, number[fields[1]])
		lines[i] = strings.Replace(line, fields[0], device, 1)
		delete(number, fields[1])
	}
	if number[bootPath] != 0 {
		e.edits.Problems = append(e.edits.Problems, Problem{Message: file + " does not mount " + bootPath, Remedy: "use an image in Raspberry Pi OS's layout"})
	}
	if text := strings.Join(lines, ""); text != string(data) {
		e.write(overlays.Entry{Path: file, Mode: 0o644, Content: []byte(text)})
	}
}

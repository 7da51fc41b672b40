package release

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
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

// onDemand are the mount options of the boot partition. Nothing that a system
// needs to come up lies on it, the firmware has read it by then; and its check,
// which fstab asks for, takes a Zero a quarter of its boot. So systemd checks and mounts it
// when somebody looks into it (systemd.mount(5)). A node that nobody sees must
// not stop in the emergency mode over it either.
var onDemand = []string{"nofail", "x-systemd.automount"}

// fstab names the partitions by the image's disk id, and takes the boot
// partition off the way of the boot.
func (e *editor) fstab(bootPath string) {
	const file = "/etc/fstab"
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
		if e.target.DiskID != 0 {
			device := fmt.Sprintf("PARTUUID=%08x-%02d", e.target.DiskID, number[fields[1]])
			lines[i] = strings.Replace(line, fields[0], device, 1)
		}
		if fields[1] == bootPath && len(fields) > 3 {
			lines[i] = withOptions(lines[i], onDemand)
		}
		delete(number, fields[1])
	}
	if number[bootPath] != 0 {
		e.edits.Problems = append(e.edits.Problems, Problem{Message: file + " does not mount " + bootPath, Remedy: "use an image in Raspberry Pi OS's layout"})
	}
	if text := strings.Join(lines, ""); text != string(data) {
		e.write(overlays.Entry{Path: file, Mode: 0o644, Content: []byte(text)})
	}
}

// fourth finds the options in a line of fstab.
var fourth = regexp.MustCompile(`^(\s*(?:\S+\s+){3})(\S+)`)

// withOptions adds mount options to a line of fstab, those that it has not.
func withOptions(line string, options []string) string {
	at := fourth.FindStringSubmatchIndex(line)
	if at == nil {
		return line
	}
	has := strings.Split(line[at[4]:at[5]], ",")
	for _, o := range options {
		if !slices.Contains(has, o) {
			has = append(has, o)
		}
	}
	return line[:at[4]] + strings.Join(has, ",") + line[at[5]:]
}

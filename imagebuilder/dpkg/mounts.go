package dpkg

import (
	"path"
	"strings"
)

const fstab = "/etc/fstab"

// readMounts reads where the system mounts other file systems (fstab(5)). What
// a package has for one of them would lie hidden below it.
func (db *database) readMounts() error {
	text, err := db.readText(fstab, maxConfig)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	db.mounts = parseMounts(text)
	return nil
}

func parseMounts(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0][0] == '#' || !strings.HasPrefix(fields[1], "/") {
			continue
		}
		if dir := path.Clean(fields[1]); dir != "/" {
			list = append(list, dir)
		}
	}
	return list
}

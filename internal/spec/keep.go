package spec

import (
	"path"
	"slices"
	"strings"
)

// unkept are folders that are no data of anybody's: the system that an upgrade
// is to replace, what is made anew at every boot, and what has the node's identity in it.
var unkept = []string{"/", "/bin", "/boot", "/dev", "/etc", "/etc/hatchery", "/lib", "/proc", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/lib/dpkg", "/var/lib/hatchery", "/var/lock", "/var/run", "/var/tmp"}

// keep reads what outlives a new root.
func (d *decoder) keep(items []item) []string {
	kept := []string{}
	var whole []string // the paths that stand here, whatever order they stand in
	for _, v := range items {
		if path.IsAbs(v.text) && path.Clean(v.text) == v.text && !slices.Contains(unkept, v.text) {
			whole = append(whole, v.text)
		}
	}
	for _, v := range items {
		switch {
		case v.text == KeepVolumes:
		case !path.IsAbs(v.text) || path.Clean(v.text) != v.text || strings.ContainsAny(v.text, "\x00\n"):
			d.problem(v, "%s is neither `volumes` nor an absolute path such as /srv/data", quote(v.text))
			continue
		case slices.Contains(unkept, v.text) || under(v.text, "/usr", "/boot", "/dev", "/proc", "/run", "/sys", "/etc/hatchery", "/var/lib/hatchery", "/var/lib/dpkg", "/tmp", "/var/tmp", "/var/run", "/var/lock"):
			d.problem(v, "%s belongs to the system, which an upgrade replaces: name the folder with your own data", quote(v.text))
			continue
		case v.text == "/var/lib/docker" || under(v.text, "/var/lib/docker"):
			d.problem(v, "%s is Docker's own, which only fits the engine that made it: keep `volumes`", quote(v.text))
			continue
		}
		if slices.Contains(kept, v.text) {
			d.problem(v, "%s stands here twice", quote(v.text))
			continue
		}
		if i := slices.IndexFunc(whole, func(w string) bool { return under(v.text, w) }); i >= 0 {
			d.problem(v, "%s lies within %s, which is kept with all that is in it: leave it out", quote(v.text), quote(whole[i]))
			continue
		}
		kept = append(kept, v.text)
	}
	return kept
}

func under(place string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return strings.HasPrefix(place, f+"/") })
}

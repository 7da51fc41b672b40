package dpkg

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hatchery/internal/ext4"
)

// removeOldFiles removes what only the version before had, but for its
// configuration files (src/main/unpack.c, pkg_remove_old_files).
func (k *unpacking) removeOldFiles() error {
	for _, name := range slices.Clone(k.confs) {
		if k.goes[name] {
			if err := k.removeConffile(name); err != nil {
				return err
			}
		}
	}
	var inodes map[uint32]string // of the new version's files
	for _, name := range slices.Backward(slices.Clone(k.r.files)) {
		if k.fresh[name] != "" || k.inArchive[name] {
			continue
		}
		use := k.db.diverted(name, k.r)
		if info, err := k.root.Stat(use); err == nil && info.Mode.IsDir() && k.usedByOthers(name) {
			continue
		}
		info, err := k.root.Lstat(use)
		if missing(err) || errors.Is(err, ext4.ErrLoop) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Mode.IsDir() {
			if err := k.removeFolder(use); err != nil {
				return err
			}
			continue
		}
		if inodes == nil {
			inodes = k.newInodes()
		}
		same, known := inodes[info.Inode]
		if digest, conf := k.oldConf[name]; conf {
			switch {
			case known && k.isConf(same) && k.fresh[same] == newConffile:
				k.fresh[same] = digest
			case !known:
				k.obsolete[name] = true
				k.fresh[name] = digest
				k.confs = append(k.confs, name)
				k.files = append(k.files, name)
			}
			continue
		}
		if known {
			continue
		}
		if err := k.db.activate(use, k.r); err != nil {
			return err
		}
		if err := k.root.Remove(use); err != nil {
			return err
		}
		k.touched[path.Dir(use)] = true
	}
	return nil
}

func (k *unpacking) removeFolder(use string) error {
	if use == "/." {
		return nil
	}
	if err := k.db.activate(use, k.r); err != nil {
		return err
	}
	if err := k.root.Remove(use); err != nil {
		if errors.Is(err, ext4.ErrNotEmpty) {
			return nil // somebody else's files are in it
		}
		return err
	}
	k.touched[path.Dir(use)] = true
	return nil
}

// newInodes finds the new version's files on the file system, where an old one
// may be known by another path.
func (k *unpacking) newInodes() map[uint32]string {
	inodes := map[uint32]string{}
	for _, name := range k.files {
		if k.filtered[name] {
			continue
		}
		if info, err := k.root.Lstat(name); err == nil {
			inodes[info.Inode] = name
		}
	}
	return inodes
}

func (k *unpacking) usedByOthers(name string) bool {
	return slices.ContainsFunc(k.db.owners[name], func(other *record) bool { return other != k.r })
}

// removeConffile removes a configuration file that the new version wants to be
// gone (pkg_remove_conffile_on_upgrade); what was changed in the image stays
// beside it.
func (k *unpacking) removeConffile(name string) error {
	if k.usedByOthers(name) {
		return nil
	}
	use := k.db.diverted(name, k.r)
	use, err := k.conffilePlace(use)
	if err != nil || use == "" {
		return err
	}
	if err := k.root.Remove(use + distSuffix); err != nil && !missing(err) {
		return err
	}
	digest, err := k.digest(use)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	k.touched[path.Dir(use)] = true
	if digest == k.fresh[name] {
		return k.root.Remove(use)
	}
	return k.root.Rename(use, use+oldSuffix)
}

// conffilePlace follows symbolic links to where a configuration file lies
// (src/main/configure.c, conffderef); "" is nowhere.
func (k *unpacking) conffilePlace(name string) (string, error) {
	for range 25 {
		info, err := k.root.Lstat(name)
		if missing(err) || err == nil && info.Mode.IsRegular() {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		if info.Mode.Type() != fs.ModeSymlink {
			return "", nil
		}
		target, err := k.root.Readlink(name)
		if err != nil {
			return "", err
		}
		if !strings.HasPrefix(target, "/") {
			target = path.Dir(name) + "/" + target
		}
		name = target
	}
	return "", nil
}

// disappearOthers forgets packages that have nothing left that is not in the
// new one (src/main/unpack.c, pkg_disappear_others).
func (k *unpacking) disappearOthers() error {
	for _, other := range slices.Clone(k.db.records) {
		if other == k.r || !other.present() || len(other.files) == 0 || k.c.same && other.same && other.name == k.c.name {
			continue
		}
		if !slices.ContainsFunc(other.files, func(name string) bool { return name != "/." }) ||
			slices.ContainsFunc(other.files, func(name string) bool { return k.saves(name, other) }) {
			continue
		}
		needed, err := k.isNeeded(other)
		if err != nil {
			return err
		}
		if needed {
			continue
		}
		if err := k.setOff(other); err != nil {
			return err
		}
		if err := k.scripts.addOld(other, "postrm", "disappear", k.db.unambiguous(&k.c.record), k.c.version); err != nil {
			return err
		}
		if err := k.db.removeInfo(nil, other.infoName()); err != nil {
			return err
		}
		other.state = notInstalled
		k.db.noted(other)
		k.db.drop(other)
	}
	return nil
}

// saves says whether a file keeps a package from disappearing: one that is
// neither in the new package nor in a third (filesavespackage).
func (k *unpacking) saves(name string, other *record) bool {
	if d := k.db.diversions[name]; d != nil && d.to != "" && (d.by == other.name || d.by == k.c.name) {
		return true
	}
	if k.inArchive[name] {
		return false
	}
	for _, third := range k.db.owners[name] {
		if third == k.r || third == other || other.same && third.name == other.name {
			continue
		}
		return false
	}
	return true
}

// isNeeded says whether something that is installed depends on a package that
// would disappear, and on nobody who stays.
func (k *unpacking) isNeeded(gone *record) (bool, error) {
	for _, r := range k.db.records {
		if r == gone || r == k.r || r.state < unpacked {
			continue
		}
		for _, name := range []string{fieldDepends, fieldPreDepends, "Recommends"} {
			if r.state < triggersAwaited && name != fieldPreDepends {
				continue
			}
			groups, err := r.relations(name)
			if err != nil {
				return false, fmt.Errorf("%s: %w", r.name, err)
			}
			for _, group := range groups {
				if k.metBy(group, gone) && !k.metWithout(group, gone) {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

func (k *unpacking) metBy(group []relation, r *record) bool {
	return slices.ContainsFunc(group, func(rel relation) bool {
		ok, err := meets(rel, r)
		return ok && err == nil
	})
}

func (k *unpacking) metWithout(group []relation, gone *record) bool {
	return k.metBy(group, &k.c.record) || slices.ContainsFunc(k.db.records, func(r *record) bool {
		return r != gone && r.state >= triggersPending && k.metBy(group, r)
	})
}

// takeFromOthers takes the files that were laid out of other packages' lists
// (pkg_remove_files_from_others).
func (k *unpacking) takeFromOthers() error {
	var losers []*record
	for _, name := range k.files {
		if !k.laid[name] {
			continue
		}
		diverter := ""
		if d := k.db.diversions[name]; d != nil && d.to != "" {
			if d.by == k.c.name {
				continue
			}
			diverter = d.by
		}
		for _, other := range k.db.owners[name] {
			if other.name == k.c.name || diverter != "" && other.name == diverter {
				continue
			}
			if k.isConf(name) {
				for i := range other.conffiles {
					if other.conffiles[i].path == name {
						other.conffiles[i].obsolete = true
						other.raw = ""
					}
				}
			}
			if !slices.Contains(losers, other) {
				losers = append(losers, other)
			}
		}
	}
	for _, other := range losers {
		rest := slices.DeleteFunc(slices.Clone(other.files), func(name string) bool { return k.laid[name] })
		if err := k.db.writeList(other, rest); err != nil {
			return err
		}
	}
	return nil
}

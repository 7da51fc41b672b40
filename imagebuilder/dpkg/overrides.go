package dpkg

import (
	"io/fs"
	"strconv"
	"strings"

	systemaccounts "hatchery/imagebuilder/accounts"
)

const overridesFile = adminDir + "/statoverride"

// An override is the owner and mode that the administrator gave a file
// (dpkg-statoverride(1)).
type override struct {
	uid, gid uint32
	mode     fs.FileMode // without the type
}

// accounts are the system's users and groups by name.
type accounts struct{ users, groups map[string]uint32 }

// readAccounts reads passwd and group, by which files of packages get their
// owners: names first, the numbers of the package where the system does not
// know the name (lib/dpkg/tarfn.c, tar_entry_update_from_system).
func (db *database) readAccounts() error {
	for _, file := range []struct {
		name string
		into *map[string]uint32
	}{{systemaccounts.Passwd, &db.users.users}, {systemaccounts.Group, &db.users.groups}} {
		text, err := db.readText(file.name, maxTable)
		if err != nil && !missing(err) {
			return err
		}
		*file.into = parseAccounts(text)
	}
	return nil
}

// parseAccounts reads names and numbers; the first line of a name counts, and
// a line that makes no sense does not.
func parseAccounts(text string) map[string]uint32 {
	ids := map[string]uint32{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(line, ":", 4)
		if len(fields) < 4 || fields[0] == "" || strings.ContainsAny(fields[0][:1], "+-#") {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if _, twice := ids[fields[0]]; err == nil && !twice {
			ids[fields[0]] = uint32(id)
		}
	}
	return ids
}

func (db *database) readOverrides() error {
	text, err := db.readText(overridesFile, maxTable)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	db.overrides, err = parseOverrides(text, db.users)
	return err
}

// parseOverrides reads statoverride: owner, group, mode and path in a line
// (lib/dpkg/db-fsys-override.c).
func parseOverrides(text string, system accounts) (map[string]override, error) {
	all := map[string]override{}
	err := lines(overridesFile, text, func(number int, line string) error {
		words := strings.SplitN(line, " ", 4)
		if len(words) < 4 || words[3] == "" {
			return databaseErrorf(overridesFile, number, "it is not owner, group, mode and path")
		}
		var o override
		for _, owner := range []struct {
			kind string
			word string
			ids  map[string]uint32
			into *uint32
		}{{"user", words[0], system.users, &o.uid}, {"group", words[1], system.groups, &o.gid}} {
			if digits, ok := strings.CutPrefix(owner.word, "#"); ok {
				id, err := strconv.ParseUint(digits, 10, 32)
				if err != nil {
					return databaseErrorf(overridesFile, number, "%.60q is no number of a %s", owner.word, owner.kind)
				}
				*owner.into = uint32(id)
				continue
			}
			id, ok := owner.ids[owner.word]
			if !ok {
				return databaseErrorf(overridesFile, number, "there is no %s %.60q in the image; dpkg refuses that too", owner.kind, owner.word)
			}
			*owner.into = id
		}
		mode, err := strconv.ParseUint(words[2], 8, 32)
		if err != nil || mode > 0o7777 {
			return databaseErrorf(overridesFile, number, "%.60q is no mode", words[2])
		}
		o.mode = permissions(uint32(mode))
		name := nodeName(words[3])
		if _, twice := all[name]; twice {
			return databaseErrorf(overridesFile, number, "a second line about %s", name)
		}
		all[name] = o
		return nil
	})
	return all, err
}

// permissions makes a Unix mode one of package fs.
func permissions(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

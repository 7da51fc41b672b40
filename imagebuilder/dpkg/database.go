package dpkg

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"hatchery/internal/deb822"
	"hatchery/internal/ext4"
)

// Where dpkg keeps what it knows.
const (
	adminDir    = "/var/lib/dpkg"
	infoDir     = adminDir + "/info"
	infoFormat  = infoDir + "/format"
	updatesDir  = adminDir + "/updates"
	triggersDir = adminDir + "/triggers"
	statusOld   = adminDir + "/status-old"
)

// A database is dpkg's, read from an image and changed in memory as far as it
// is one file for all packages; what is a file of one package is written as it
// comes to be.
type database struct {
	root         *ext4.FS
	epoch        time.Time
	architecture string
	records      []*record
	byName       map[string][]*record
	owners       map[string][]*record // who has a path in its list
	diversions   map[string]*diversion
	overrides    map[string]override
	triggers     triggers
	filters      []filter
	users        accounts
	mounts       []string // where the system mounts other file systems
	rewrite      bool     // the status file, whoever has changed
}

// openDatabase reads dpkg's database, and refuses one that dpkg would first
// have to repair.
func openDatabase(root *ext4.FS, epoch time.Time) (*database, error) {
	db := &database{root: root, epoch: epoch, byName: map[string][]*record{}, owners: map[string][]*record{}}
	if err := db.checkClean(); err != nil {
		return nil, err
	}
	if err := db.readStatus(); err != nil {
		return nil, err
	}
	for _, read := range []func() error{
		db.findArchitecture, db.checkStates, db.readFormat, db.readLists, db.readAccounts, db.readDiversions, db.readOverrides, db.readFilters, db.readMounts, db.readTriggers,
	} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return db, nil
}

// checkClean makes sure that no dpkg was interrupted here.
func (db *database) checkClean() error {
	updates, err := db.root.ReadDir(updatesDir)
	if err != nil && !missing(err) {
		return fmt.Errorf("cannot read dpkg's database: %w", err)
	}
	for _, entry := range updates {
		// What is named otherwise dpkg ignores (lib/dpkg/dbmodify.c, ulist_select).
		if strings.Trim(entry.Name, "0123456789") == "" {
			return databaseErrorf(path.Join(updatesDir, entry.Name), 0, "dpkg was interrupted in this image: boot it and run `dpkg --configure -a`, or take another base image")
		}
	}
	return nil
}

// findArchitecture finds out which packages the image takes. dpkg's own
// package is always the system's.
func (db *database) findArchitecture() error {
	for _, r := range db.byName["dpkg"] {
		if r.present() && r.arch != "all" {
			db.architecture = r.arch
			return nil
		}
	}
	return databaseErrorf(deb822.StatusFile, 0, "it does not have the package dpkg, so that the system's architecture is not known")
}

func (db *database) checkStates() error {
	for _, r := range db.records {
		if r.state == halfInstalled || r.flag == "reinstreq" {
			return databaseErrorf(deb822.StatusFile, r.line, "%s is %s (%s): dpkg was interrupted in this image; reinstall the package there, or take another base image", r.name, r.state, r.flag)
		}
	}
	return nil
}

// readFormat makes sure that info is laid out as it is since dpkg 1.16.2.
func (db *database) readFormat() error {
	text, err := db.readText(infoFormat, 4096)
	switch {
	case missing(err):
		for _, r := range db.records {
			if !r.same || !r.present() {
				continue
			}
			if _, err := db.root.Lstat(path.Join(infoDir, r.name+".list")); err == nil {
				return databaseErrorf(infoDir, 0, "it has the layout of a dpkg before 1.16.2: boot the image and let its dpkg install something, or take another base image")
			}
		}
		if err := db.makeDir(infoDir); err != nil {
			return err
		}
		return db.write(infoFormat, "1\n", 0o644)
	case err != nil:
		return err
	case text != "1\n":
		return databaseErrorf(infoFormat, 1, "the version %.20q of the layout is not known", strings.TrimSpace(text))
	}
	return nil
}

func (db *database) add(r *record) {
	db.records = append(db.records, r)
	db.byName[r.name] = append(db.byName[r.name], r)
}

// drop forgets a package.
func (db *database) drop(r *record) {
	db.disown(r)
	db.records = slices.DeleteFunc(db.records, func(other *record) bool { return other == r })
	db.byName[r.name] = slices.DeleteFunc(db.byName[r.name], func(other *record) bool { return other == r })
	db.rewrite = true
}

// find gives the package of a name, with or without ":architecture"; nil where
// there is none (lib/dpkg/pkg-spec.c, pkg_spec_parse_pkg).
func (db *database) find(spec string) *record {
	name, arch, qualified := strings.Cut(spec, ":")
	list := db.byName[name]
	for _, r := range list {
		if qualified && r.arch == arch || !qualified && (len(list) == 1 || !db.foreign(r)) {
			return r
		}
	}
	return nil
}

// save writes what is one file for all packages.
func (db *database) save() error {
	if err := db.saveTriggers(); err != nil {
		return err
	}
	// The locks that dpkg makes and leaves there.
	for _, lock := range []struct {
		name string
		mode fs.FileMode
	}{{adminDir + "/lock", 0o640}, {adminDir + "/lock-frontend", 0o640}, {triggersDir + "/Lock", 0o600}} {
		if _, err := db.root.Lstat(lock.name); missing(err) {
			err = db.write(lock.name, "", lock.mode)
			if err != nil {
				return err
			}
		}
	}
	if err := db.makeDir(updatesDir); err != nil {
		return err
	}
	if err := db.root.Remove(statusOld); err != nil && !missing(err) {
		return err
	}
	if err := db.root.Rename(deb822.StatusFile, statusOld); err != nil {
		return err
	}
	return db.write(deb822.StatusFile, db.status(), 0o644)
}

// write makes one of dpkg's own files.
func (db *database) write(name, content string, mode fs.FileMode) error {
	return db.root.Create(name, strings.NewReader(content), ext4.Attr{Mode: mode, ModTime: db.epoch})
}

func (db *database) makeDir(name string) error {
	return db.root.MkdirAll(name, ext4.Attr{Mode: 0o755, ModTime: db.epoch})
}

// readText reads a file of the image that has at most that many bytes.
func (db *database) readText(name string, most int64) (string, error) {
	return readText(db.root, name, most)
}

func readText(root *ext4.FS, name string, most int64) (string, error) {
	info, err := root.Stat(name)
	if err != nil {
		return "", err
	}
	switch {
	case !info.Mode.IsRegular():
		return "", databaseErrorf(name, 0, "it is no plain file")
	case info.Size > most:
		return "", databaseErrorf(name, 0, "it has %d bytes, and %d are far more than any has", info.Size, most)
	}
	content, err := root.ReadFile(name)
	return string(content), err
}

// missing says whether an error means that there is nothing at a path.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, ext4.ErrNotDir)
}

// nodeName is a path as dpkg keeps it: one slash before it, "/." for the root
// (lib/dpkg/fsys-hash.c, fsys_hash_find_node).
func nodeName(name string) string {
	for {
		cut := strings.TrimPrefix(strings.TrimLeft(name, "/"), "./")
		if cut == name {
			return "/" + name
		}
		name = cut
	}
}

// lines calls visit for each line of a file that has to end with a newline.
func lines(file, text string, visit func(number int, line string) error) error {
	for number := 1; text != ""; number++ {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			return databaseErrorf(file, number, "the file ends within this line: its newline is missing")
		}
		if err := visit(number, line); err != nil {
			return err
		}
		text = rest
	}
	return nil
}

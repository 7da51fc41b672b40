package release

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"hatchery/imagebuilder/accounts"
	"hatchery/overlays"
)

// This file holds the edits of files that every Debian has.

func (e *editor) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// exists says whether there is something at a path.
func (e *editor) exists(p string) bool {
	_, err := e.root.Lstat(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.fail(fmt.Errorf("cannot look at %s: %w", p, err))
	}
	return err == nil
}

// isFile says whether there is a regular file at a path, or a link to one.
func (e *editor) isFile(p string) bool {
	for range 16 { // links in a row
		mode, err := e.root.Lstat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false
		case err != nil:
			// Below a file (the time zone UTC/x) there is nothing either.
			if above, aboveErr := e.root.Lstat(path.Dir(p)); aboveErr != nil || !above.IsRegular() {
				e.fail(fmt.Errorf("cannot look at %s: %w", p, err))
			}
			return false
		case mode&fs.ModeSymlink == 0:
			return mode.IsRegular()
		}
		target, err := e.root.Readlink(p)
		if err != nil {
			e.fail(fmt.Errorf("cannot read link %s: %w", p, err))
			return false
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(p), target)
		}
		p = path.Clean(target)
	}
	return false
}

// list gives the names in a folder, sorted; none if there is no such folder.
func (e *editor) list(dir string) []string {
	names, err := e.root.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.fail(fmt.Errorf("cannot read folder %s: %w", dir, err))
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return names
}

// read gives a file's content, and whether there is such a file.
func (e *editor) read(p string) ([]byte, bool) {
	data, err := e.root.ReadFile(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.fail(fmt.Errorf("cannot read %s: %w", p, err))
	}
	return data, err == nil
}

// userGroups are the groups of Raspberry Pi OS's first user, and Docker's.
var userGroups = []string{
	"adm", "dialout", "cdrom", "sudo", "audio", "video", "plugdev", "games", "users", "input", "render",
	"netdev", "gpio", "i2c", "spi", "docker",
}

// database reads the account files. Those that are no files (a link to
// nothing) are as good as missing.
func (e *editor) database() (*accounts.Database, error) {
	files := map[string][]byte{}
	for _, file := range accounts.Files {
		if !e.isFile(file) {
			continue
		}
		if data, ok := e.read(file); ok {
			files[file] = data
		}
	}
	return accounts.Parse(files)
}

// accounts makes the user. stock are the names of the image's first account,
// which is renamed.
func (e *editor) accounts(stock []string) {
	db, err := e.database()
	if e.err != nil {
		return
	}
	if err != nil {
		e.edits.Problems = append(e.edits.Problems, Problem{
			Fatal: true, Message: fmt.Sprintf("the image's accounts cannot be read: %v", err),
			Remedy: "use an image whose account files are whole, as every Raspberry Pi OS has them",
		})
		return
	}
	shadowGID, _ := db.Group("shadow") // without one the file is root's
	result, err := db.Ensure(accounts.Wanted{
		Name: e.target.User, PasswordHash: e.target.PasswordHash, Groups: userGroups,
		RenameFrom: stock, Epoch: e.target.Epoch,
	})
	if err != nil {
		e.fail(err)
		return
	}
	for file, data := range db.Changed() {
		entry := overlays.Entry{Path: file, Mode: 0o644, Content: data}
		if file == accounts.Shadow || file == accounts.Gshadow {
			entry.Mode, entry.GID, entry.Secret = 0o640, shadowGID, true
		}
		e.write(entry)
	}
	e.home(result)
}

// home moves or makes the user's home folder, and lays the keys into it.
func (e *editor) home(result accounts.Result) {
	user := result.User
	own := func(entry overlays.Entry) {
		entry.UID, entry.GID = user.UID, user.GID
		e.write(entry)
	}
	was := user.Home
	if result.OldHome != "" {
		was = result.OldHome
	}
	switch {
	case !e.exists(was):
		own(overlays.Entry{Path: user.Home, Mode: fs.ModeDir | 0o700})
		e.skeleton("/etc/skel", user.Home, own)
	case was != user.Home && e.exists(user.Home):
		e.fail(fmt.Errorf("%s cannot become %s, which is there already", was, user.Home))
		return
	case was != user.Home:
		e.edits.Rename = append(e.edits.Rename, Rename{was, user.Home})
	}
	if len(e.target.AuthorizedKeys) == 0 {
		return
	}
	ssh := path.Join(user.Home, ".ssh")
	own(overlays.Entry{Path: ssh, Mode: fs.ModeDir | 0o700})
	var keys strings.Builder
	for _, key := range e.target.AuthorizedKeys {
		keys.WriteString(strings.TrimSpace(key) + "\n")
	}
	own(overlays.Entry{Path: path.Join(ssh, "authorized_keys"), Mode: 0o600, Content: []byte(keys.String())})
}

// skeleton copies what a new home folder starts with. It follows no links and
// goes no deeper than anybody's skeleton does.
func (e *editor) skeleton(from, to string, write func(overlays.Entry)) {
	e.copyTree(from, to, 8, write)
}

func (e *editor) copyTree(from, to string, depth int, write func(overlays.Entry)) {
	if depth == 0 {
		e.fail(fmt.Errorf("%s: folders lie too deep", from))
		return
	}
	for _, file := range e.list(from) {
		source, dest := path.Join(from, file), path.Join(to, file)
		mode, err := e.root.Lstat(source)
		if err != nil {
			e.fail(fmt.Errorf("cannot look at %s: %w", source, err))
			return
		}
		switch {
		case mode.IsDir():
			write(overlays.Entry{Path: dest, Mode: fs.ModeDir | mode.Perm()})
			e.copyTree(source, dest, depth-1, write)
		case mode&fs.ModeSymlink != 0:
			target, err := e.root.Readlink(source)
			if err != nil {
				e.fail(fmt.Errorf("cannot read link %s: %w", source, err))
				return
			}
			write(overlays.Entry{Path: dest, Mode: fs.ModeSymlink | 0o777, Target: target})
		case mode.IsRegular():
			if data, ok := e.read(source); ok {
				write(overlays.Entry{Path: dest, Mode: mode.Perm(), Content: data})
			}
		}
	}
}

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

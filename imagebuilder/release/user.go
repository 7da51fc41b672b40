package release

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"hatchery/imagebuilder/accounts"
	"hatchery/overlays"
)

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
	if e.target.Docker {
		// Its package keeps a group that is there when it is configured, which
		// is too late for the user to be in it.
		if _, err := db.EnsureSystemGroup("docker"); err != nil {
			e.fail(err)
			return
		}
	}
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

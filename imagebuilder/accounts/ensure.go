package accounts

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ordinary users have numbers from firstID to lastID, as login.defs has them.
const (
	firstID = 1000
	lastID  = 59999
)

// Subordinate ids are given out in ranges, as useradd does it.
const (
	firstSubID = 100000
	subIDCount = 65536
)

// Wanted is an account that is to exist.
type Wanted struct {
	Name string
	// PasswordHash is a hash as crypt(5) has it. Without one there is no
	// password that fits; logging in by key works.
	PasswordHash string
	// Groups are joined as far as they exist.
	Groups []string
	// RenameFrom is the image's stock account, which becomes the wanted one
	// if it has the first ordinary user's number, 1000.
	RenameFrom []string
	// Epoch is when the password was last changed, by day.
	Epoch time.Time
}

// Result is what Ensure did.
type Result struct {
	User    User
	Created bool // not in the files before; the home folder has to be made
	// OldName and OldHome are what a stock account was called before it was
	// renamed. Where OldHome differs from User.Home, the folder has to be moved.
	OldName, OldHome string
}

var (
	namePattern = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	hashPattern = regexp.MustCompile(`^[^:\s!*\x00-\x1f\x7f][^:\s\x00-\x1f\x7f]*$`)
)

// Ensure makes the wanted account: it takes the account of that name, else
// renames the stock one, else creates one. Its password is set or locked, and
// it joins the groups. A name that belongs to the system (root, www-data) is
// an error. Nothing has changed if there is an error.
func (db *Database) Ensure(w Wanted) (Result, error) {
	if !namePattern.MatchString(w.Name) {
		return Result{}, fmt.Errorf("%q is no user name", w.Name)
	}
	if w.PasswordHash != "" && !hashPattern.MatchString(w.PasswordHash) {
		return Result{}, errors.New("the password hash is none")
	}
	// Day 0, which a reproducible build may well have, means that the password
	// must be changed at once.
	days := max(w.Epoch.Unix()/86400, 1)
	result, err := db.account(w)
	if err != nil {
		return Result{}, err
	}
	db.setPassword(w.Name, w.PasswordHash, days)
	db.setShell(w.Name)
	for _, group := range w.Groups {
		db.join(group, w.Name)
	}
	result.User, _ = db.Lookup(w.Name)
	return result, nil
}

// account finds, renames or creates the account.
func (db *Database) account(w Wanted) (Result, error) {
	if fields := db.files[Passwd].find(w.Name); fields != nil {
		user, ok := userOf(fields)
		if !ok {
			return Result{}, fmt.Errorf("%s: user %s has no valid number", Passwd, w.Name)
		}
		if user.UID < firstID || user.UID > lastID {
			return Result{}, fmt.Errorf("user %s is an account of the system (number %d)", w.Name, user.UID)
		}
		return Result{}, nil
	}
	if gid, ok := db.Group(w.Name); ok && (gid < firstID || gid > lastID) {
		return Result{}, fmt.Errorf("user %s would have the name of the system's group %d", w.Name, gid)
	}
	if first, ok := db.LookupID(firstID); ok && slices.Contains(w.RenameFrom, first.Name) {
		if named, ok := db.Lookup(first.Name); !ok || named != first {
			return Result{}, fmt.Errorf("%s: user %s is listed twice", Passwd, first.Name)
		}
		db.rename(first, w.Name)
		return Result{OldName: first.Name, OldHome: first.Home}, nil
	}
	return Result{Created: true}, db.create(w.Name)
}

// rename gives a user another name wherever it is named: its own lines, its
// group, its memberships, its subordinate ids. Its home folder follows where
// it had the old name.
func (db *Database) rename(old User, name string) {
	db.files[Passwd].update(old.Name, func(f []string) {
		f[0] = name
		if f[5] == "/home/"+old.Name {
			f[5] = "/home/" + name
		}
	})
	for _, path := range []string{Shadow, Subuid, Subgid} {
		db.files[path].update(old.Name, func(f []string) { f[0] = name })
	}
	if db.files[Group].find(name) == nil {
		for _, path := range []string{Group, Gshadow} {
			db.files[path].update(old.Name, func(f []string) { f[0] = name })
		}
	}
	for _, path := range []string{Group, Gshadow} {
		t := db.files[path]
		if t == nil {
			continue
		}
		for i, r := range t.rows {
			if r.fields == nil {
				continue
			}
			t.edit(i, func(f []string) {
				f[3] = replaceMember(f[3], old.Name, name)
				if path == Gshadow { // administrators of the group
					f[2] = replaceMember(f[2], old.Name, name)
				}
			})
		}
	}
}

func replaceMember(list, old, name string) string {
	names := members(list)
	i := slices.Index(names, old)
	if i < 0 {
		return list
	}
	names[i] = name
	return strings.Join(names, ",")
}

// create adds a user with a group of its own.
func (db *Database) create(name string) error {
	users, groups := db.ids(Passwd), db.ids(Group)
	own, hasGroup := db.Group(name)
	var uid uint32
	for id := uint32(firstID); ; id++ {
		if id > lastID {
			return fmt.Errorf("no number from %d to %d is free for user %s", firstID, lastID, name)
		}
		if !users[id] && (hasGroup || !groups[id]) {
			uid = id
			break
		}
	}
	gid := uid
	if hasGroup {
		gid = own
	} else {
		db.files[Group].add(name, "x", id(gid), "")
		db.files[Gshadow].addOnce(name, "!", "", "")
	}
	db.files[Passwd].add(name, "x", id(uid), id(gid), "", "/home/"+name, "/bin/bash")
	for _, path := range []string{Subuid, Subgid} {
		if start, ok := db.nextSubID(path); ok {
			db.files[path].addOnce(name, start, strconv.Itoa(subIDCount))
		}
	}
	return nil
}

func id(v uint32) string { return strconv.FormatUint(uint64(v), 10) }

// nextSubID is where the next range of subordinate ids starts.
func (db *Database) nextSubID(path string) (string, bool) {
	t := db.files[path]
	if t == nil {
		return "", false
	}
	next := uint64(firstSubID)
	for _, r := range t.rows {
		if r.fields == nil {
			continue
		}
		start, err1 := strconv.ParseUint(r.fields[1], 10, 32)
		count, err2 := strconv.ParseUint(r.fields[2], 10, 32)
		if err1 == nil && err2 == nil {
			next = max(next, start+count)
		}
	}
	return strconv.FormatUint(next, 10), next+subIDCount <= 1<<32-1
}

// setPassword sets the hash, or locks the account's password. The lock is *,
// which no password fits: ! would have sshd refuse the key as well where it
// runs without PAM. An account that expires, or whose password does, would
// lock its only user out, so nothing of the kind is kept.
func (db *Database) setPassword(name, hash string, days int64) {
	if hash == "" {
		hash = "*"
	}
	db.files[Passwd].update(name, func(f []string) { f[1] = "x" })
	fields := []string{name, hash, strconv.FormatInt(days, 10), "0", "99999", "7", "", "", ""}
	if db.files[Shadow].find(name) == nil {
		db.files[Shadow].add(fields...)
		return
	}
	db.files[Shadow].update(name, func(f []string) { copy(f, fields) })
}

// setShell replaces a shell that nobody can log in to: stock accounts that
// wait to be renamed may have one.
func (db *Database) setShell(name string) {
	db.files[Passwd].update(name, func(f []string) {
		if f[6] == "/bin/false" || strings.HasSuffix(f[6], "/nologin") || f[6] == "" {
			f[6] = "/bin/bash"
		}
	})
}

// join makes a user a member of a group, if there is one.
func (db *Database) join(group, name string) {
	for _, path := range []string{Group, Gshadow} {
		db.files[path].update(group, func(f []string) {
			if names := members(f[3]); !slices.Contains(names, name) {
				f[3] = strings.Join(append(names, name), ",")
			}
		})
	}
}

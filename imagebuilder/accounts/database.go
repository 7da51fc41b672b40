// Package accounts edits the account files of a system that is not running:
// passwd, shadow, group, gshadow, subuid and subgid. It works on their bytes,
// needs no tool of the system, and leaves every line that it does not change,
// or does not understand (comments, NIS entries, broken lines), byte for byte
// as it is.
//
// Formats: passwd(5), shadow(5), group(5), gshadow(5), subuid(5).
package accounts

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The files, by their absolute paths.
const (
	Passwd  = "/etc/passwd"
	Shadow  = "/etc/shadow"
	Group   = "/etc/group"
	Gshadow = "/etc/gshadow"
	Subuid  = "/etc/subuid"
	Subgid  = "/etc/subgid"
)

// Files lists them all. Passwd, Shadow and Group must exist; a file that does
// not is not made.
var Files = []string{Passwd, Shadow, Group, Gshadow, Subuid, Subgid}

// fieldCounts are how many fields a line has that is understood.
var fieldCounts = map[string]int{Passwd: 7, Shadow: 9, Group: 4, Gshadow: 4, Subuid: 3, Subgid: 3}

// A Database is the account files of one system.
type Database struct {
	files map[string]*table
}

// table is one file. Lines of which fields is nil are kept as text.
type table struct {
	rows []row
	// noFinalNewline says that the file's last line is not ended.
	noFinalNewline bool
	changed        bool
}

type row struct {
	text   string
	fields []string
}

func (r row) key() string {
	if r.fields == nil {
		return ""
	}
	return r.fields[0]
}

// Parse reads the files, given by the paths above. Without a shadow file
// password hashes would be in passwd, which everybody reads: that is an error.
func Parse(files map[string][]byte) (*Database, error) {
	db := &Database{files: map[string]*table{}}
	for _, path := range Files {
		data, ok := files[path]
		if !ok {
			if path == Passwd || path == Shadow || path == Group {
				return nil, fmt.Errorf("no %s", path)
			}
			continue
		}
		if bytes.IndexByte(data, 0) >= 0 {
			return nil, fmt.Errorf("%s holds a NUL byte", path)
		}
		db.files[path] = parseTable(string(data), fieldCounts[path])
	}
	return db, nil
}

func parseTable(text string, count int) *table {
	t := &table{}
	if text == "" {
		return t
	}
	body, ended := strings.CutSuffix(text, "\n")
	t.noFinalNewline = !ended
	for _, line := range strings.Split(body, "\n") {
		r := row{text: line}
		fields := strings.Split(line, ":")
		if len(fields) == count && fields[0] != "" && !strings.ContainsRune("#+-", rune(line[0])) {
			r.fields = fields
		}
		t.rows = append(t.rows, r)
	}
	return t
}

func (t *table) bytes() []byte {
	var b bytes.Buffer
	for i, r := range t.rows {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(r.text)
	}
	if len(t.rows) > 0 && (!t.noFinalNewline || t.changed) {
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// find gives the fields of the first line with the key, as the C library
// takes the first.
func (t *table) find(key string) []string {
	if t == nil {
		return nil
	}
	for _, r := range t.rows {
		if r.fields != nil && r.key() == key {
			return r.fields
		}
	}
	return nil
}

// update changes all lines of a key by edit.
func (t *table) update(key string, edit func(fields []string)) {
	if t == nil {
		return
	}
	for i := range t.rows {
		if t.rows[i].fields != nil && t.rows[i].key() == key {
			t.edit(i, edit)
		}
	}
}

func (t *table) edit(i int, edit func(fields []string)) {
	r := &t.rows[i]
	edit(r.fields)
	if text := strings.Join(r.fields, ":"); text != r.text {
		r.text, t.changed = text, true
	}
}

// add appends a line, before NIS entries at the end: what follows those is not
// read on a system without NIS, and what they bring in would come first on one
// with it.
func (t *table) add(fields ...string) {
	if t == nil {
		return
	}
	at := len(t.rows)
	for at > 0 && (strings.HasPrefix(t.rows[at-1].text, "+") || strings.HasPrefix(t.rows[at-1].text, "-")) {
		at--
	}
	t.rows = slices.Insert(t.rows, at, row{text: strings.Join(fields, ":"), fields: fields})
	t.changed = true
}

// addOnce appends a line unless the key, its first field, has one: an account
// that was removed by hand may have left it.
func (t *table) addOnce(fields ...string) {
	if t.find(fields[0]) == nil {
		t.add(fields...)
	}
}

// Changed gives the files that differ from what was parsed, by path.
func (db *Database) Changed() map[string][]byte {
	changed := map[string][]byte{}
	for path, t := range db.files {
		if t.changed {
			changed[path] = t.bytes()
		}
	}
	return changed
}

// File gives a file's present content, and whether it is there.
func (db *Database) File(path string) ([]byte, bool) {
	t, ok := db.files[path]
	if !ok {
		return nil, false
	}
	return t.bytes(), true
}

// A User is a line of passwd.
type User struct {
	Name        string
	UID, GID    uint32
	Home, Shell string
}

func userOf(fields []string) (User, bool) {
	if fields == nil {
		return User{}, false
	}
	uid, err1 := strconv.ParseUint(fields[2], 10, 32)
	gid, err2 := strconv.ParseUint(fields[3], 10, 32)
	return User{Name: fields[0], UID: uint32(uid), GID: uint32(gid), Home: fields[5], Shell: fields[6]}, err1 == nil && err2 == nil
}

// Lookup gives a user by name.
func (db *Database) Lookup(name string) (User, bool) {
	return userOf(db.files[Passwd].find(name))
}

// LookupID gives the first user with a number.
func (db *Database) LookupID(uid uint32) (User, bool) {
	for _, r := range db.files[Passwd].rows {
		if u, ok := userOf(r.fields); ok && u.UID == uid {
			return u, true
		}
	}
	return User{}, false
}

// Group gives a group's number by its name.
func (db *Database) Group(name string) (uint32, bool) {
	fields := db.files[Group].find(name)
	if fields == nil {
		return 0, false
	}
	gid, err := strconv.ParseUint(fields[2], 10, 32)
	return uint32(gid), err == nil
}

// ids are all numbers in use in a file's third field.
func (db *Database) ids(path string) map[uint32]bool {
	used := map[uint32]bool{}
	for _, r := range db.files[path].rows {
		if r.fields == nil {
			continue
		}
		if id, err := strconv.ParseUint(r.fields[2], 10, 32); err == nil {
			used[uint32(id)] = true
		}
	}
	return used
}

// members splits a comma-separated list of names.
func members(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

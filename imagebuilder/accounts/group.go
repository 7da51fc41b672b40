package accounts

import "fmt"

// System groups that packages make have numbers from firstSystemID to
// lastSystemID (Debian Policy, section 9.2.2).
const (
	firstSystemID = 100
	lastSystemID  = 999
)

// EnsureSystemGroup makes a group of the system unless there is one of that
// name, and gives its number. It takes the highest number that is free, as
// groupadd --system does; what is a user's number is left to that user's
// group.
func (db *Database) EnsureSystemGroup(name string) (uint32, error) {
	if !namePattern.MatchString(name) {
		return 0, fmt.Errorf("%q is no group name", name)
	}
	if db.files[Group].find(name) != nil {
		gid, ok := db.Group(name)
		if !ok {
			return 0, fmt.Errorf("%s: group %s has no valid number", Group, name)
		}
		return gid, nil
	}
	users, groups := db.ids(Passwd), db.ids(Group)
	for gid := uint32(lastSystemID); gid >= firstSystemID; gid-- {
		if !users[gid] && !groups[gid] {
			db.files[Group].add(name, "x", id(gid), "")
			db.files[Gshadow].addOnce(name, "!", "", "")
			return gid, nil
		}
	}
	return 0, fmt.Errorf("no number from %d to %d is free for group %s", firstSystemID, lastSystemID, name)
}

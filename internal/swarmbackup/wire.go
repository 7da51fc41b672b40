package swarmbackup

import "regexp"

// A node keeps backups under enrol.PathBackup, for the controller alone:
//
//	GET    /v1/backup        Listing
//	GET    /v1/backup/{id}   the backup; ranges work
//	PUT    /v1/backup/{id}   Content-Length is needed; 201, or 200 where it was there; 413 too large, 422 not what the id says, 507 no room
//
// An id is the SHA-256 of the whole file, in lower-case hexadecimal.

// Kept is how many backups a node keeps of the present swarm: the latest ones.
// It keeps one of the swarm before beside them.
const Kept = 2

// MaxSize is how large a backup may be that a node takes, in bytes.
const MaxSize = 256 << 20

// A Listing is what a node keeps, the latest first.
type Listing struct {
	Backups []Entry `json:"backups"`
}

// An Entry is a kept backup.
type Entry struct {
	ID    string `json:"id"`
	Bytes int64  `json:"bytes"`
	// Header is the beginning of the file, with its label and the
	// controller's signature (sealed.Header.Raw).
	Header []byte `json:"header"`
}

var idForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ValidID says whether this can be a backup's id.
func ValidID(id string) bool { return idForm.MatchString(id) }

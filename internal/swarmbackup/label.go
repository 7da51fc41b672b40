package swarmbackup

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// format is the version of the archive.
const format = 1

// A Label says what a backup is. It is signed, but not secret: the nodes that
// keep the backup read it.
type Label struct {
	Format  int       `json:"format"`
	Cluster string    `json:"cluster"` // hatchery's name of it
	Swarm   string    `json:"swarm"`   // the swarm's ID
	NodeID  string    `json:"node_id"` // the controller's in the swarm
	Taken   time.Time `json:"taken"`
	Term    uint64    `json:"term"`  // raft's, of the last entry
	Index   uint64    `json:"index"` // raft's last entry
	Raw     int64     `json:"raw"`   // what the swarm's folder takes, in bytes
}

// ParseLabel reads a label.
func ParseLabel(data []byte) (*Label, error) {
	l := new(Label)
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("a backup's label is no JSON: %w", err)
	}
	switch {
	case l.Format > format:
		return nil, fmt.Errorf("the backup has format %d, and this program knows %d: use a later hatchery", l.Format, format)
	case l.Format < 1 || l.Cluster == "" || l.Swarm == "":
		return nil, errors.New("a backup's label names no cluster and no swarm")
	}
	return l, nil
}

// Compare orders backups by age, the newest last. Within one swarm raft's term
// and index decide, which no clock can turn around: a swarm that went on from
// an older backup has a higher term. Between swarms it is the time.
//
// Compare is an order of the backups of one swarm, or of any that were taken
// under a right clock. Newest sorts by it within the swarm that was backed up
// last.
func (l *Label) Compare(other *Label) int {
	if l.Swarm == other.Swarm {
		if c := cmp.Or(cmp.Compare(l.Term, other.Term), cmp.Compare(l.Index, other.Index)); c != 0 {
			return c
		}
	}
	return l.Taken.Compare(other.Taken)
}

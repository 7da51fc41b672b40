package identity

import (
	"errors"
	"fmt"
)

// ErrBusy is what waiting for another process in the same folder ends with.
var ErrBusy = errors.New("another hatchery is at work here: wait for it, or end it")

// An OtherClusterError is the folder of a cluster by another name.
type OtherClusterError struct {
	Dir        string
	Have, Want string // the clusters' names
}

func (e *OtherClusterError) Error() string {
	return fmt.Sprintf("%s holds the identity of the cluster %q, not of %q: correct the name in cluster.yaml; "+
		"or move the folder away, and every node gets a new identity at its next build", e.Dir, e.Have, e.Want)
}

// A DamagedError is a file of the folder that is missing or not what it was.
// Nothing is made in its place.
type DamagedError struct {
	File   string
	Detail string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s %s: restore the identity folder from a backup; without one, move the folder away, "+
		"and every node gets a new identity at its next build", e.File, e.Detail)
}

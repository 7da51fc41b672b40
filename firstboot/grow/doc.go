// Package grow makes a node's root file system take the whole card, while it
// is in use: first the entry of its partition in the MBR, then the kernel's
// idea of the partition, then the file system. No other program is run.
//
// Each step sees for itself whether there is something to do, so what a power
// cut left half done is finished by the next call. What cannot be grown is
// left as it is and told of: a small root boots.
package grow

import (
	"fmt"
	"log/slog"
)

// Options say what is grown. The zero value is the root of this system.
type Options struct {
	// Mount is where the file system is mounted, "/" if empty.
	Mount string
	Log   *slog.Logger // nil: none

	cut func(before string) // the tests': what the next step is
}

func (o Options) mount() string {
	if o.Mount == "" {
		return "/"
	}
	return o.Mount
}

func (o Options) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

func (o Options) next(step string) {
	if o.cut != nil {
		o.cut(step)
	}
}

// A Status says what there is.
type Status struct {
	Partition     string // as the kernel calls it, "mmcblk0p2"; "" where the root is none
	PartitionSize int64  // in bytes
	FileSystem    int64  // its size, in bytes
	Grown         bool   // this call has made one of them larger
	// Reason is why the file system does not get the whole card, "" where it
	// has it. It is for people, and no failure: nothing that is tried again
	// would change it.
	Reason string
}

// String is the status for people.
func (s Status) String() string {
	text := "nothing to grow"
	if s.Partition != "" {
		text = fmt.Sprintf("the file system of %s has %d of %d MiB", s.Partition, s.FileSystem>>20, s.PartitionSize>>20)
	}
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

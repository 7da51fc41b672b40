package parttable

import (
	"errors"
	"fmt"
)

// ErrNoTable is what every *NoTableError is: no MBR partition table here.
var ErrNoTable = errors.New("no MBR partition table")

// The kinds of *PartitionError.
var (
	ErrMissing  = errors.New("is missing")
	ErrEmpty    = errors.New("has no sectors")
	ErrOverlap  = errors.New("overlaps")
	ErrPastEnd  = errors.New("reaches past the end of the image")
	ErrExtended = errors.New("is an extended partition")
	ErrShrink   = errors.New("cannot be made smaller")
	ErrTooLarge = errors.New("would reach past the 2 TiB that an MBR can describe")
)

const (
	remedyImage  = "give a Raspberry Pi OS disk image"
	remedyUnpack = "give the image itself, or name the file by its compression (.xz, .gz, .zst, .zip)"
	remedyURL    = "check the address it came from"
)

// A NoTableError says what stands where a partitioned image was expected.
type NoTableError struct {
	Saw    string // "gzip-compressed data"
	Remedy string
}

func (e *NoTableError) Error() string {
	return fmt.Sprintf("not a disk image with an MBR partition table, but %s: %s", e.Saw, e.Remedy)
}

// Unwrap makes errors.Is(err, ErrNoTable) true.
func (e *NoTableError) Unwrap() error { return ErrNoTable }

// A GPTError says that the image is partitioned by GPT, which no Raspberry Pi
// OS image is, and by what that was seen.
type GPTError struct {
	Evidence string
}

func (e *GPTError) Error() string {
	return fmt.Sprintf("the image has a GPT partition table (%s), not an MBR one: %s", e.Evidence, remedyImage)
}

// A PartitionError names the entry that is wrong.
type PartitionError struct {
	Number int    // 1–4
	Kind   error  // ErrMissing, ErrOverlap, …
	Detail string // may be empty
}

func (e *PartitionError) Error() string {
	s := fmt.Sprintf("partition %d %v", e.Number, e.Kind)
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	switch e.Kind {
	case ErrPastEnd:
		s += ": the image is cut short, fetch it again"
	case ErrMissing, ErrEmpty, ErrExtended:
		s += ": a Raspberry Pi OS image has its boot files in partition 1 and the system in partition 2"
	}
	return s
}

// Unwrap makes errors.Is(err, ErrOverlap) and the like true.
func (e *PartitionError) Unwrap() error { return e.Kind }

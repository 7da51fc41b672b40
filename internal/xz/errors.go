package xz

import (
	"errors"
	"fmt"
)

// What can be wrong with a file. Every error that this package finds in its
// input is an [*Error] of one of these kinds; use errors.Is to tell them
// apart.
var (
	// ErrFormat: this is no xz file at all.
	ErrFormat = errors.New("not an xz file")
	// ErrTruncated: the file ends too early.
	ErrTruncated = errors.New("truncated")
	// ErrCorrupt: the file's structure or a checksum is wrong.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnsupported: a valid file that uses what this package does not do:
	// a filter other than LZMA2, an unknown check.
	ErrUnsupported = errors.New("unsupported")
	// ErrMemory: decoding takes more memory than the limit allows.
	ErrMemory = errors.New("too little memory allowed")
)

// An Error says what is wrong with an xz file, and where.
type Error struct {
	Kind   error  // one of the Err… values
	Offset int64  // in the xz file, in bytes: where the broken structure begins, or the file ends
	Block  int    // the block, counted from 1 over the whole file as `xz --list -vv` does; 0 outside of blocks
	Detail string // what exactly
}

func (e *Error) Error() string {
	where := fmt.Sprintf("at offset %d", e.Offset)
	if e.Block > 0 {
		where = fmt.Sprintf("block %d %s", e.Block, where)
	}
	if e.Detail == "" {
		return fmt.Sprintf("xz: %v %s", e.Kind, where)
	}
	return fmt.Sprintf("xz: %v %s: %s", e.Kind, where, e.Detail)
}

// Unwrap gives the kind.
func (e *Error) Unwrap() error { return e.Kind }

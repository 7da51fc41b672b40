package layer

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrSealed says that a sealed layer cannot be written.
	ErrSealed = errors.New("the layer is sealed")
	// ErrNotSealed says that a layer which may still change was given as a
	// parent, or asked for a digest.
	ErrNotSealed = errors.New("the layer is not sealed")
	// ErrWrongParent is what every [*WrongParentError] matches.
	ErrWrongParent = errors.New("wrong parent")
	// ErrCorrupt is what every [*CorruptError] matches.
	ErrCorrupt = errors.New("corrupt layer")
	// ErrVersion says that the file is of a format version unknown here.
	ErrVersion = errors.New("unknown format version")
	// ErrInUse says that another process has the layer open for writing.
	ErrInUse = errors.New("the layer is in use by another process")
	// ErrFailed says that a sync failed earlier, so that what is durable is not
	// known; the layer takes no more writes until it is opened anew.
	ErrFailed = errors.New("the layer failed to reach the disk earlier")
	// ErrPastEnd says that a write or discard would reach past the device's end.
	ErrPastEnd = errors.New("past the end of the device")
	// ErrUnrelated says that two chains do not stand on one base.
	ErrUnrelated = errors.New("the chains have different bases")
)

// A WrongParentError says that a layer was opened over something else than
// what it was made on.
type WrongParentError struct {
	Path      string
	Want, Got digest.Digest
}

func (e *WrongParentError) Error() string {
	return fmt.Sprintf("%s: wrong parent: made on %s, opened on %s", e.Path, e.Want, e.Got)
}

// Is makes the error match [ErrWrongParent].
func (e *WrongParentError) Is(target error) bool { return target == ErrWrongParent }

// A CorruptError says what is wrong in a layer's file, and where.
type CorruptError struct {
	Path   string
	Offset int64 // in the file, in bytes
	What   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: corrupt layer: at byte %d: %s", e.Path, e.Offset, e.What)
}

// Is makes the error match [ErrCorrupt].
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

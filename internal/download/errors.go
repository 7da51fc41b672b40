package download

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// An InputError is a mistake in what the user gave: a URL that leads nowhere,
// or to another file than the one that is wanted. Its message says what to do,
// and does not name the URL: the caller knows what it stands for.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap gives the error without the verdict.
func (e *InputError) Unwrap() error { return e.Err }

func inputErrorf(format string, args ...any) error {
	return &InputError{fmt.Errorf(format, args...)}
}

// A NotFoundError says that the server has no such file. It comes within an
// [*InputError].
type NotFoundError struct {
	Status string // 404 Not Found, or 410 Gone
}

func (e *NotFoundError) Error() string {
	return "the server answers " + e.Status + ": check the URL"
}

// An OfflineError says that nothing is fetched, because the user wants it so.
type OfflineError struct{}

func (e *OfflineError) Error() string { return "nothing is fetched offline" }

// A DigestError says that the file which came is another than the one that is
// wanted. It comes within an [*InputError].
type DigestError struct {
	Want, Got digest.Digest
	Head      []byte // the first bytes of what came, to tell what it is: up to [HeadSize]
}

// HeadSize is how many bytes of a wrong file a [DigestError] keeps.
const HeadSize = 4096

func (e *DigestError) Error() string {
	return fmt.Sprintf("wrong %s: expected %s, got %s; the file there is another one: check the URL and the digest",
		e.Want.Algorithm(), e.Want.Encoded(), e.Got.Encoded())
}

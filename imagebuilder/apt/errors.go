package apt

import (
	"fmt"
	"time"
)

// An InputError is a mistake in what the user gave: a source of cluster.yaml
// that leads nowhere, a key that is not the archive's. Its message says what
// to do.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap gives the error without the verdict.
func (e *InputError) Unwrap() error { return e.Err }

// Why a signature is not accepted.
type Why int

const (
	Unsigned         Why = iota // there is no signature, or no OpenPGP message
	UnknownKey                  // none of the keys that count has made it
	WeakDigest                  // the signature is over a SHA-1, MD5 or RIPEMD-160 digest
	WeakKey                     // the key is too short, or of a broken kind
	ExpiredKey                  // the key is not valid any more
	RevokedKey                  // its owner has withdrawn the key
	UnfitKey                    // the key is not meant for signing, or no self-signature holds
	ExpiredSignature            // the signature itself has an end
	BadSignature                // the text is not what was signed
)

// A SignatureError says that no signature of a Release file is accepted.
type SignatureError struct {
	Why    Why
	Key    string // its fingerprint, or the key ID of one that is not there; "" where it does not matter
	Detail string // a sentence
	Remedy string // what to do
}

func (e *SignatureError) Error() string {
	if e.Remedy == "" {
		return e.Detail
	}
	return e.Detail + ": " + e.Remedy
}

// An ExpiredError says that a Release file is not to be used at this time.
type ExpiredError struct {
	// Early is set where the file's Date is yet to come, else its Valid-Until
	// has passed.
	Early bool
	At    time.Time // that Date or Valid-Until
	Date  time.Time // of the file
	Now   time.Time
}

func (e *ExpiredError) Error() string {
	const layout = "2006-01-02 15:04 MST"
	if e.Early {
		return fmt.Sprintf("its Release file is of %s, which is yet to come by this machine's clock (%s): set the clock, or pass --ignore-expiry",
			e.At.UTC().Format(layout), e.Now.UTC().Format(layout))
	}
	return fmt.Sprintf("its Release file, of %s, was valid until %s, which is %s ago by this machine's clock (%s): "+
		"the mirror is not kept up to date, or the clock is ahead; --ignore-expiry takes it all the same",
		e.Date.UTC().Format(layout), e.At.UTC().Format(layout), days(e.Now.Sub(e.At)), e.Now.UTC().Format(layout))
}

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// A ReleaseError says what is wrong with a Release file whose signature is
// good.
type ReleaseError struct{ Detail string }

func (e *ReleaseError) Error() string { return "its Release file cannot be used: " + e.Detail }

// A DigestError says that a file is not the one that its digest names.
type DigestError struct {
	What   string // "the index main/binary-armhf/Packages.xz"
	Err    error  // what differs
	Remedy string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s is not the one that is listed: %v: %s", e.What, e.Err, e.Remedy)
}

// Unwrap gives what differs.
func (e *DigestError) Unwrap() error { return e.Err }

// An OfflineError says that something is not in the cache, and nothing is
// fetched. It comes within an [*InputError].
type OfflineError struct{ What string }

func (e *OfflineError) Error() string {
	return e.What + " not in the cache, and nothing is fetched offline: build once with a network"
}

// A GoneError says that the archive does not have a package any more.
type GoneError struct {
	Name, Version string
	URL           string
	Err           error
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("the archive does not have %s %s any more (%s: the server answers that there is no such file): "+
		"`hatchery lock` takes the version that it has now", e.Name, e.Version, e.URL)
}

// Unwrap gives what the download said.
func (e *GoneError) Unwrap() error { return e.Err }

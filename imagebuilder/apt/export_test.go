package apt

import (
	"context"
	"io"
	"time"
)

// Use holds what [Update] and [FetchDebs] hold while they are at work.
func Use(ctx context.Context, cache string) (release func(), err error) {
	s, err := openStore(cache)
	if err != nil {
		return nil, err
	}
	return s.use(ctx)
}

// Unlisted reads what comes out of an index whose length is not listed.
func Unlisted(r io.Reader) io.Reader { return newUnlisted(r) }

// VerifyInRelease verifies a clear-signed file by a source's keyrings, and
// gives the text that was signed.
func VerifyInRelease(data []byte, source Source, now time.Time) ([]byte, error) {
	s, err := splitInRelease(data)
	if err != nil {
		return nil, err
	}
	return s.text, s.verify(&source, now)
}

// VerifyDetached verifies a file by its detached signature.
func VerifyDetached(release, signature []byte, source Source, now time.Time) error {
	s, err := splitDetached(release, signature)
	if err != nil {
		return err
	}
	return s.verify(&source, now)
}

var (
	ParsePreferences = func(data []byte) ([]Pin, []Note) { return parsePreferences("f", data) }
	ParseRelease     = func(data []byte) error { _, err := parseRelease(data); return err }
	Pinned           = func(i *Index, pins []Pin) int { return pinned(i, pins, 500) }
)

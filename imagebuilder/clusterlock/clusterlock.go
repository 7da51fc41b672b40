// Package clusterlock is cluster.lock, the file beside cluster.yaml that
// records what the cluster's images are made of, so that equal inputs give
// byte-equal images on any day and any workstation:
//
//	epoch: 1763769600                 # every timestamp in the images, in seconds since 1970
//	images:
//	  raspios_lite_armhf:             # what cluster.yaml calls the image: see Key
//	    url: "https://…"              # what the name stood for when it was locked
//	    sha256: "…"                   # of the download
//	    size: 521142272               # of the download in bytes
//	    image_sha256: "…"             # of the image in it
//	    image_size: 2579496960        # of the image in it, in bytes
//	    released: "2025-12-04"
//	packages:
//	  - base: "sha256:…"              # of the image that they are added to
//	    architecture: "armhf"         # of that image
//	    wanted:                       # what was asked for, and what else decides what it leads to
//	      - "docker.io"
//	    packages:                     # what it led to, in the order of unpacking
//	      - name: "docker.io"
//	        version: "20.10.24+dfsg1-1"
//	        architecture: "armhf"     # its own, or all
//	        url: "http://…"           # in the archive itself, whichever mirror it came from
//	        sha256: "…"               # of the .deb
//	        size: 36248044            # of the .deb in bytes
//	        automatic: true           # it was not asked for itself
//	containers:
//	  - image: "alpine:3.20"          # what cluster.yaml calls it
//	    platform: "linux/arm/v6"
//	    digest: "sha256:…"            # of the platform's manifest
//	    size: 3350000                 # of what is fetched in bytes
//
// It belongs into version control with cluster.yaml. It is written in one
// canonical form (sorted, heading comment first), appears whole or not at
// all, and several builds may change it at once. It holds no secrets: of an
// image's URL with a query, which may be a token, only a digest of the query,
// and of a package no URL with a query or an account. A lock of an earlier
// version, which has fewer of these parts, is read as it is.
//
// Reading is strict: a key that is not known is an error, since a lock that
// is obeyed in part is none.
package clusterlock

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Name is the file's name.
const Name = "cluster.lock"

// A Lock is what the file records. What is recorded per kind of thing has a
// map or list of its own here, which file.go reads and writes.
type Lock struct {
	Epoch      time.Time        // the one timestamp; whole seconds, UTC
	Images     map[string]Image // by Key
	Packages   []PackageSet     // sorted; see PutPackages
	Containers []Container      // sorted; see PutContainer
}

// An Image is what a base image's name, or URL without a digest, stands for.
type Image struct {
	URL         string `json:"url,omitempty" yaml:"url"` // of the download; "" where the key itself is one
	SHA256      string `json:"sha256" yaml:"sha256"`     // of the download, lower-case hex
	Size        int64  `json:"size,omitempty" yaml:"size"`
	ImageSHA256 string `json:"image_sha256,omitempty" yaml:"image_sha256"` // of the image in it, lower-case hex; "" where it was not published
	ImageSize   int64  `json:"image_size,omitempty" yaml:"image_size"`
	Released    string `json:"released,omitempty" yaml:"released"` // 2025-12-04; "" where it was not published
}

// Key is how the lock calls an image of cluster.yaml: by its name or URL as
// it stands there, but for what may be secret in a URL. A query may hold a
// token, and it may as well say which file is meant, so a digest of it stands
// for it.
func Key(image string) string {
	if !strings.Contains(image, "://") {
		return image
	}
	u, err := url.Parse(image)
	if err != nil {
		return "url-sha256:" + fingerprint(image)
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	if u.RawQuery != "" {
		u.RawQuery = "query-sha256=" + fingerprint(u.RawQuery)
	}
	return u.String()
}

func fingerprint(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:8])
}

// An InputError is a mistake in the file, or in SOURCE_DATE_EPOCH, which
// overrides it. Its message says what to do.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap gives the error without the verdict.
func (e *InputError) Unwrap() error { return e.Err }

// epochEnd is past the last moment that every file system in an image can
// write down: FAT's dates end with 2107.
const epochEnd = 4354819200

func parseEpoch(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || seconds >= epochEnd {
		return time.Time{}, fmt.Errorf("is %.40q: it must be a whole number of seconds since 1970, before the year 2108", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// Override is the epoch that SOURCE_DATE_EPOCH sets; false where it sets none.
func Override() (time.Time, bool, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return time.Time{}, false, nil
	}
	epoch, err := parseEpoch(s)
	if err != nil {
		return time.Time{}, false, &InputError{fmt.Errorf("SOURCE_DATE_EPOCH %w", err)}
	}
	return epoch, true, nil
}

// Epoch is the one moment that every timestamp in the images shows:
// SOURCE_DATE_EPOCH where it is set, else what cluster.lock in dir says, else
// now, which is then locked.
func Epoch(dir string, now time.Time) (time.Time, error) {
	epoch, locked, err := peek(dir, now)
	if err != nil || locked {
		return epoch, err
	}
	// A build beside this one may be first: its epoch counts.
	l, err := update(dir, now, func(*Lock) error { return nil })
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot record the build's epoch: %w", err)
	}
	return l.Epoch, nil
}

// Peek is [Epoch] without locking anything: what a build now would use.
func Peek(dir string, now time.Time) (time.Time, error) {
	epoch, _, err := peek(dir, now)
	return epoch, err
}

// peek says also whether the epoch is a settled one.
func peek(dir string, now time.Time) (time.Time, bool, error) {
	epoch, set, err := Override()
	if err != nil || set {
		return epoch, set, err
	}
	l, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Unix(now.Unix(), 0).UTC(), false, nil
	}
	if err != nil {
		return time.Time{}, false, err
	}
	return l.Epoch, true, nil
}

// maxSize is more than any cluster.lock has, in bytes.
const maxSize = 1 << 20

// Read reads the lock in dir. The error is fs.ErrNotExist where there is none.
func Read(dir string) (*Lock, error) {
	place := filepath.Join(dir, Name)
	data, err := readRegular(place)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", Name, err)
	}
	l, err := Parse(data)
	if err != nil {
		return nil, &InputError{fmt.Errorf("%s: %w", place, err)}
	}
	return l, nil
}

// readRegular reads a file of a bearable size; what a device or a pipe might
// give is never waited for.
func readRegular(place string) ([]byte, error) {
	info, err := os.Stat(place)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &InputError{fmt.Errorf("%s is no regular file: remove it to lock anew", place)}
	}
	f, err := os.Open(place)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

// Package apt fetches packages from Debian archives as apt does, and believes
// as little: the sources, keyrings and preferences are those of the image
// itself, a Release file counts when a key of its source's keyrings has signed
// it, an index when the Release file lists its digest, a .deb when its digest
// is the one that an index, or cluster.lock, has.
//
// [ReadSources] reads an image's sources, [Update] fetches what they publish,
// and [FetchDebs] the packages that were chosen of it. With a lock, only
// FetchDebs is needed. Formats: sources.list(5), apt_preferences(5) and
// apt-secure(8); the repository format is that of the Debian wiki's
// "DebianRepository/Format".
//
// # Cache
//
// All lies below the folder [Options].Cache, which baseimage's cache shares;
// folders are 0700:
//
//	apt/lists/<sha256 of "URI SUITE">.release    the signed Release file that was believed last (a package cachefile file)
//	apt/lists/<digest>.xz .gz .zst .packages     indexes as the archive has them, named by the digest of that very file: 64 hexadecimal digits (SHA-256), 128 (SHA-512)
//	apt/lists/<digest>.part                      what has come of an index so far
//	apt/debs/<sha256>.deb                        packages
//	apt/debs/<sha256>.part                       what has come of one so far
//	locks/apt-use.lock                           held shared by who works with any of these; who removes some holds it exclusively
//	locks/apt-<name of the file in lists or debs without its ending>.lock   one process at a time fetches a thing
//
// Whatever is used gets the present time as its time of modification, so the
// oldest are those unused for longest. Nothing in it is believed by its name:
// signatures and digests are verified at every use.
package apt

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hatchery/internal/download"
	"hatchery/internal/progress"
)

// Options are what [Update] and [FetchDebs] need to know.
type Options struct {
	Cache        string           // folder, see the package's description; it must not be empty
	Client       *download.Client // how archives are reached; Offline: not at all
	Architecture string           // of the image, by Debian's name: armel, armhf, arm64; FetchDebs needs none

	// IgnoreExpiry takes Release files whose Valid-Until has passed.
	IgnoreExpiry bool
	// Now is the time by which keys and Release files are judged; zero means
	// the present.
	Now time.Time
	// Mirrors says where else to fetch what lies below a URI: the beginning
	// of a URI, and what comes in its place. Indexes and locked packages go
	// by the original names all the same.
	Mirrors map[string]string
	// Pins are those of the image's preferences ([Sources].Pins).
	Pins []Pin

	Progress progress.Reporter // nil: nobody is told
	// Warn is told what is no error, but that the user should know: a suite
	// that has another name than the source says. nil: nobody is.
	Warn func(text string)
}

func (o *Options) now() time.Time {
	if o.Now.IsZero() {
		return time.Now()
	}
	return o.Now
}

func (o *Options) report() progress.Reporter {
	if o.Progress == nil {
		return progress.Discard
	}
	return o.Progress
}

// mirrored is where a URL is fetched from.
func (o *Options) mirrored(url string) string {
	longest, to := "", ""
	for _, key := range slices.Sorted(maps.Keys(o.Mirrors)) { // two may differ by a slash at the end alone
		from, other := strings.TrimRight(key, "/"), o.Mirrors[key]
		if len(from) > len(longest) && (url == from || strings.HasPrefix(url, from+"/")) {
			longest, to = from, strings.TrimRight(other, "/")
		}
	}
	if longest == "" {
		return url
	}
	return to + url[len(longest):]
}

func (o *Options) check() error {
	switch {
	case o.Cache == "":
		return fmt.Errorf("no cache folder is given")
	case o.Client == nil:
		return fmt.Errorf("no client is given")
	}
	return nil
}
